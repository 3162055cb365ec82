package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

// plain is the line protocol: lines in are messages, lines out are what the room says.
type plain struct {
	o    Options
	note *log.Logger // to Err; for any goroutine
	room *client.Room
	said progress
}

func runPlain(ctx context.Context, o Options) error {
	if err := o.missing(); err != nil {
		return err
	}
	if _, ok := o.Out.(*os.File); ok {
		signal.Ignore(syscall.SIGPIPE) // writing to a closed pipe is an error then, not the end
	}
	c, err := client.New(fullAddress(o.Server))
	if err != nil {
		return err
	}
	defer c.Disconnect()
	p := &plain{o: o, note: log.New(o.Err, "", 0), said: progress{reached: make(chan struct{})}}
	if err := p.enter(ctx, c); err != nil {
		return err
	}
	return p.chat(ctx)
}

// missing returns an error that names the flags without which there is nothing to do.
func (o *Options) missing() error {
	var flags []string
	for _, f := range []struct{ flag, value string }{
		{"--server", o.Server},
		{"--user", o.User},
		{"--password", o.Password},
		{"--room or --create", o.Room + o.Create},
	} {
		if f.value == "" {
			flags = append(flags, f.flag)
		}
	}
	if len(flags) == 0 {
		return nil
	}
	return fmt.Errorf("the line protocol asks for nothing: give %s", strings.Join(flags, ", "))
}

// enter logs in and joins the room.
func (p *plain) enter(ctx context.Context, c *client.Client) error {
	if p.o.Register {
		if _, err := c.Register(ctx, p.o.User, p.o.Password); err != nil {
			return err
		}
	}
	if err := c.Login(ctx, p.o.User, p.o.Password); err != nil {
		return err
	}
	code := p.o.Room
	if p.o.Create != "" {
		var err error
		if code, err = c.CreateChatRoom(ctx, p.o.Create, p.o.RoomPassword); err != nil {
			return err
		}
		p.note.Println("room", screenLine(code))
	}
	var err error
	var link link
	p.room, err = c.JoinChatRoom(ctx, code, p.o.RoomPassword, client.OnState(func(s client.ConnState, _ error) {
		if news := link.change(s); news != "" {
			p.note.Println(news)
		}
	}))
	return err
}

// chat carries messages both ways until the input has ended and all that it sent has come back, or the
// room is over, or nobody reads the output.
func (p *plain) chat(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sent, received := make(chan error, 1), make(chan error, 1)
	go func() { sent <- p.send(ctx) }()
	go func() { received <- p.receive(ctx) }()
	select {
	case err := <-received:
		if ctx.Err() != nil {
			return <-sent
		}
		return err
	case err := <-sent:
		if ctx.Err() != nil {
			return err
		}
		select {
		case <-p.said.reached:
			cancel()
			<-received // nothing writes to the output any more
			return err
		case err := <-received:
			return err
		}
	}
}

// receive writes the room's messages out. It never returns without an error.
func (p *plain) receive(ctx context.Context) error {
	for {
		m, err := p.room.Receive(ctx)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(p.o.Out, "%s %s: %s\n",
			m.SentAt.UTC().Format(time.RFC3339), pipeName(m.UserName), pipeText(m.Body))
		switch {
		case errors.Is(err, syscall.EPIPE), errors.Is(err, os.ErrClosed), errors.Is(err, io.ErrClosedPipe):
			return ErrOutputClosed
		case err != nil:
			return fmt.Errorf("write a message: %w", err)
		}
		p.said.to(m.Seq)
	}
}

// progress tells when the messages have been written out up to the one that Run may end with.
type progress struct {
	reached chan struct{} // closed then

	mu    sync.Mutex // guards the fields below
	seq   uint64     // the newest message written out
	until uint64
	ended bool // until is set
}

// to counts the messages up to seq as written.
func (p *progress) to(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq = seq
	p.check()
}

// end says which message is the last to be waited for; 0 for none. It is called once.
func (p *progress) end(until uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until, p.ended = until, true
	p.check()
}

func (p *progress) check() {
	if p.ended && p.seq >= p.until {
		select {
		case <-p.reached:
		default:
			close(p.reached)
		}
	}
}

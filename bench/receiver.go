package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/grpcchatter/grpcchatter/client"
)

// receivers are how many clients the process of the workload client has.
const receivers = 50

// receiverCost measures what a receiver by the Go client costs, and what the server spends on it.
func receiverCost(ctx context.Context, b *bencher) ([]row, error) {
	s, err := b.alternate(ctx, []string{"grpcchatter"}, func(kind string) (figures, error) {
		ctx, t, stop, err := b.launch(ctx, kind, "room")
		if err != nil {
			return nil, err
		}
		defer stop()
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		running, kill := context.WithCancel(ctx)
		cmd := exec.CommandContext(running, self, "receive", t.proc.addr, t.codes["room"], strconv.Itoa(b.messages))
		defer cmd.Wait()
		defer kill() // before that
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		line := make([]byte, 64)
		if _, err := out.Read(line); err != nil { // they are all in the room
			return nil, errors.Join(context.Cause(ctx), err)
		}
		window := make(chan struct{}, 128)
		m, err := t.joinToSend(ctx, "room", func(n int) {
			for range n {
				<-window
			}
		})
		if err != nil {
			return nil, err
		}
		defer m.close()
		time.Sleep(settle(receivers))
		server, theirs := t.proc.cpu(), cpuOf(cmd.Process.Pid)
		for id := range b.messages {
			select {
			case window <- struct{}{}:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
			if err := m.send(strings.Repeat("x", 64), id); err != nil {
				return nil, err
			}
		}
		if _, err := out.Read(line); err != nil { // they have all
			return nil, errors.Join(context.Cause(ctx), err)
		}
		n := float64(b.messages * receivers)
		return figures{
			"server": float64((t.proc.cpu() - server).Microseconds()) / n,
			"client": float64((cpuOf(cmd.Process.Pid) - theirs).Microseconds()) / n,
		}, nil
	})
	if err != nil {
		return nil, err
	}
	return []row{against("a receiver by the Go client", "CPU µs a message", s["grpcchatter"], "client", "the server", "server", atMost, 1)}, nil
}

// receive is the process with the receivers: it says when all are in the room, and when each has n messages, in their
// order.
func receive(addr, code string, n int) error {
	ctx := context.Background()
	var rooms []*client.Room
	for range receivers {
		c, err := client.New(addr)
		if err != nil {
			return err
		}
		if err := c.Login(ctx, "sender", password); err != nil {
			return err
		}
		r, err := c.JoinChatRoom(ctx, code, "")
		if err != nil {
			return err
		}
		rooms = append(rooms, r)
	}
	fmt.Println("joined")
	var receiving sync.WaitGroup
	failed := make([]error, len(rooms))
	for i, r := range rooms {
		receiving.Go(func() {
			var numbers sequence
			for range n {
				m, err := r.Receive(ctx)
				if err == nil {
					err = numbers.next(m.Seq)
				}
				if err != nil {
					failed[i] = err
					return
				}
			}
		})
	}
	receiving.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	fmt.Println("done")
	time.Sleep(time.Second) // its processor time is read meanwhile
	return nil
}

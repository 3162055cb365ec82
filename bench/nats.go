package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/nats-io/nats.go"
)

// deliver is the subject on which JetStream delivers what it has stored of a room.
func deliver(room string) string { return "deliver." + room }

// addStreams makes a stream of each room, on file, and one consumer that delivers it to all members.
func (t *target) addStreams(rooms []string) error {
	nc, err := nats.Connect("nats://" + t.proc.addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		return err
	}
	for _, room := range rooms {
		if _, err := js.AddStream(&nats.StreamConfig{Name: room, Subjects: []string{room}, Storage: nats.FileStorage}); err != nil {
			return err
		}
		if _, err := js.AddConsumer(room, &nats.ConsumerConfig{Durable: "members", DeliverSubject: deliver(room), AckPolicy: nats.AckNonePolicy}); err != nil {
			return err
		}
	}
	return nil
}

// natsMember is a subscriber of NATS that speaks its protocol itself, and counts messages without decoding them, as a
// chatMember does: https://docs.nats.io/reference/reference-protocols/nats-protocol
type natsMember struct {
	conn net.Conn
	room string
	nc   *nats.Conn            // publishes; nil: it only listens
	js   nats.JetStreamContext // nil: core
}

func (t *target) joinNATS(room string, received func(n int)) (*natsMember, error) {
	conn, err := net.Dial("tcp", t.proc.addr)
	if err != nil {
		return nil, err
	}
	subject := room
	if t.kind == "jetstream" {
		subject = deliver(room)
	}
	r := bufio.NewReaderSize(conn, 32<<10) // as grpc-go and nats.go have
	_, err = fmt.Fprintf(conn, "CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB %s 1\r\nPING\r\n", subject)
	for line := []byte(nil); err == nil && !bytes.Equal(line, []byte("PONG\r\n")); {
		line, err = r.ReadSlice('\n') // INFO is the first
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	go func() {
		if err := countNATS(conn, r, received); !errors.Is(err, net.ErrClosed) {
			t.fail(fmt.Errorf("a member of %s: %w", room, err))
		}
	}()
	return &natsMember{conn: conn, room: room}, nil
}

// countNATS reads until the end of a connection. It tells of the messages that one read has brought at once.
func countNATS(conn net.Conn, r *bufio.Reader, received func(n int)) error {
	n := 0
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		switch line[0] {
		case 'M': // MSG subject sid [reply-to] size
			size := 0
			for _, c := range line[bytes.LastIndexByte(line, ' ')+1 : len(line)-2] {
				size = size*10 + int(c-'0')
			}
			if _, err := r.Discard(size + 2); err != nil {
				return err
			}
			n++
		case 'P': // PING
			if _, err := conn.Write([]byte("PONG\r\n")); err != nil {
				return err
			}
		case '-': // -ERR
			return errors.New(string(bytes.TrimSpace(line)))
		}
		if n > 0 && r.Buffered() == 0 {
			received(n)
			n = 0
		}
	}
}

// connect opens the connection on which the member publishes.
func (m *natsMember) connect(t *target) (err error) {
	if m.nc, err = nats.Connect("nats://" + t.proc.addr); err != nil || t.kind != "jetstream" {
		return err
	}
	m.js, err = m.nc.JetStream(nats.PublishAsyncMaxPending(4096),
		nats.PublishAsyncErrHandler(func(_ nats.JetStream, _ *nats.Msg, err error) { t.fail(err) }))
	return err
}

func (m *natsMember) send(body string, _ int) error {
	if m.js != nil {
		_, err := m.js.PublishAsync(m.room, []byte(body))
		return err
	}
	return m.nc.Publish(m.room, []byte(body))
}

func (m *natsMember) close() {
	_ = m.conn.Close()
	if m.nc != nil {
		m.nc.Close()
	}
}

// natsClient is a member by nats.go, which makes a Msg of every message.
type natsClient struct {
	nc   *nats.Conn
	room string
}

func (t *target) joinNATSClient(room string, received func(n int)) (*natsClient, error) {
	nc, err := nats.Connect("nats://"+t.proc.addr, nats.Timeout(10*time.Second), nats.NoReconnect(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { t.fail(err) }))
	if err != nil {
		return nil, err
	}
	sub, err := nc.Subscribe(room, func(*nats.Msg) { received(1) })
	if err == nil {
		err = sub.SetPendingLimits(-1, -1)
	}
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &natsClient{nc, room}, nil
}

func (c *natsClient) send(body string, _ int) error { return c.nc.Publish(c.room, []byte(body)) }

func (c *natsClient) close() { c.nc.Close() }

package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/grpcchatter/grpcchatter/pb"
)

// TestNeverOpensChat is fault 1 of the original: a blocking send to a full member queue, under the one lock
// of all rooms, so that a member who joined and never opened Chat froze the server after 255 messages.
func TestNeverOpensChat(t *testing.T) {
	t.Parallel()
	const n = 1200
	p := startWatched(t)
	names, tokens := p.loginAll(2)
	conn := p.connect()
	api := pb.NewGRPCChatterClient(conn)
	code := createRoom(t, api, tokens[names[0]])
	absent := originalJoin(t, conn, tokens[names[1]], code)
	sender := openOriginal(t, conn, originalJoin(t, conn, tokens[names[0]], code))
	receiver := openDevice(t, api, joinRoom(t, api, tokens[names[0]], code), 0)
	for i := range n {
		sender.say(t, fmt.Sprint(i))
	}
	receiver.await(t, n)

	// Neither this room nor another one is frozen.
	other := createRoom(t, api, tokens[names[0]])
	elsewhere := openDevice(t, api, joinRoom(t, api, tokens[names[0]], other), 0)
	elsewhere.say(t, "", "x")
	elsewhere.await(t, 1)
	sender.say(t, "last")
	receiver.await(t, n+1)

	for i, e := range openOriginal(t, conn, absent).await(t, n+1)[:n] {
		if e.Body != fmt.Sprint(i) {
			t.Fatalf("who came late got %q as message %d since its join", e.Body, i)
		}
	}
}

// Who sends by the original's protocol and hardly reads waits in its own stream, as everybody does: what it has sent and its
// cursor has not passed is bounded. When it reads, all goes on.
func TestOriginalUnread(t *testing.T) {
	t.Parallel()
	const big, own = 250, 3000
	r := newChatRoom(t, nil, "alice", "bob")
	conn := r.connect()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := conn.NewStream(asOriginal(ctx, originalJoin(t, conn, r.users["alice"], r.code)), &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/proto.GRPCChatter/Chat")
	if err == nil {
		_, err = stream.Header()
	}
	if err != nil {
		t.Fatal(err)
	}
	bob := openDevice(t, r.api, r.tokens["bob"], 0)
	for i := range big { // far more than the window of a stream
		bob.say(t, fmt.Sprint(i), strings.Repeat("x", 4000))
	}
	read := 0
	next := func() {
		t.Helper()
		var e pb.ChatEvent
		if err := stream.RecvMsg(&e); err != nil || e.GetUserName() != "bob" {
			t.Fatalf("message %d: %v, %v", read, &e, err)
		}
		read++
	}
	// await waits until bob has n messages, and reads so little meanwhile that the stream is far behind, but not taken for stalled.
	await := func(n int) {
		t.Helper()
		for len(bob.messages()) < n {
			if next(); read > big/2 {
				t.Fatalf("lost: bob has %d messages of %d", len(bob.messages()), n)
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	await(big)
	sent := make(chan error, 1)
	go func() {
		for i := range own {
			if err := stream.SendMsg(&pb.ChatRequest{Body: fmt.Sprint(i)}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	const most = big + maxInFlight
	await(most)
	time.Sleep(300 * time.Millisecond)
	page, err := r.api.ListMessages(withToken(ctx, r.tokens["bob"]), &pb.ListMessagesRequest{Limit: 1})
	if err != nil || page.GetMessages()[0].GetSeq() != most {
		t.Errorf("of one who does not read, this is stored: %v, %v", page, err)
	}
	for read < big {
		next()
	}
	bob.await(t, big+own)
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestOneOrder is promise 2, and fault 7 of the original, where members could see messages in different
// orders: 20 senders at once, and everybody sees one order; by the original's protocol, without what the
// stream itself has sent.
func TestOneOrder(t *testing.T) {
	t.Parallel()
	const users, senders, originals, each = 5, 20, 3, 100
	p := startWatched(t)
	names, tokens := p.loginAll(users)
	conn := p.connect()
	api := pb.NewGRPCChatterClient(conn)
	code := createRoom(t, api, tokens[names[0]])
	var members []*member
	for i := range senders {
		name := names[i%users]
		members = append(members, newMember(pb.NewGRPCChatterClient(p.connect()), name, code, joinRoom(t, api, tokens[name], code), fmt.Sprint("device", i)))
	}
	var old []*originalDevice
	for i := range originals {
		old = append(old, openOriginal(t, p.connect(), originalJoin(t, conn, tokens[names[i]], code)))
	}
	c := startCrowd(t, members)
	var sending sync.WaitGroup
	for _, m := range members {
		sending.Go(func() {
			for range each {
				m.say()
			}
		})
	}
	for k, d := range old {
		sending.Go(func() {
			for i := range each {
				d.say(t, fmt.Sprintf("old%d %d", k, i))
			}
		})
	}
	sending.Wait()
	const all = (senders + originals) * each
	eventually(t, 60*time.Second, fmt.Sprintf("all %d members have all %d messages", senders, all), func() bool {
		return c.sum((*member).last) >= senders*all
	})
	order := members[0].got
	for k, d := range old {
		got := d.await(t, all-each)
		own := fmt.Sprintf("old%d ", k)
		i := 0
		for _, e := range order {
			if strings.HasPrefix(e.Body, own) {
				continue
			}
			if got[i].Body != e.Body || got[i].UserName != e.UserName {
				t.Fatalf("the original's client %d got %q of %s as message %d, want %q of %s", k, got[i].Body, got[i].UserName, i, e.Body, e.UserName)
			}
			i++
		}
	}
	c.leave()
	c.audit(t, p)
	for k, d := range old {
		if n := len(d.await(t, 0)); n != all-each {
			t.Errorf("the original's client %d got %d messages, want %d", k, n, all-each)
		}
	}
}

// TestOriginalBehind is about the original's protocol: a stream that is thousands of messages behind its join
// and sends all the while gets every message of the others, and never one of its own.
func TestOriginalBehind(t *testing.T) {
	t.Parallel()
	const n, own = 4000, 300
	p := startWatched(t, "--max-message-queue-size=1")
	token := p.login("anna")
	conn := p.connect()
	api := pb.NewGRPCChatterClient(conn)
	code := createRoom(t, api, token)
	roomToken := originalJoin(t, conn, token, code)
	writer := newMember(api, "anna", code, roomToken, "writer")
	c := startCrowd(t, []*member{writer})
	for range n {
		writer.say()
	}
	c.settle(t, 60*time.Second)
	for range 3 {
		d := openOriginal(t, conn, roomToken)
		var sending sync.WaitGroup
		sending.Go(func() {
			for i := range own {
				d.say(t, fmt.Sprint("own ", i))
			}
		})
		d.await(t, n)
		sending.Wait()
		writer.say()
		last := fmt.Sprint(bodyWord, " writer-", writer.said()-1)
		var got []*pb.ChatEvent
		eventually(t, 30*time.Second, "the last message comes", func() bool {
			got = d.await(t, n)
			return got[len(got)-1].Body == last
		})
		seen := 0
		for _, e := range got {
			if strings.HasPrefix(e.Body, bodyWord) {
				seen++
			}
		}
		if seen != writer.said() {
			t.Errorf("%d messages of the writer came, want %d", seen, writer.said())
		}
		d.leave()
		// What it sent was not acknowledged to it, but it is there: for this stream's successor too.
		before := len(got) - seen
		again := openOriginal(t, conn, roomToken)
		if theirs := len(again.await(t, writer.said()+before+own)) - writer.said(); theirs != before+own {
			t.Errorf("the next stream got %d messages of the ones before, want %d: the difference is what a stream got of its own", theirs, before+own)
		}
		again.leave()
	}
}

package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// queueBytes bounds the bodies that wait for the committer.
	queueBytes = 16 << 20
	// maxBatch is how many messages one transaction stores at most.
	maxBatch = 4096
	// With lingerFrom messages on their way or more, a batch waits for all of them: for maxLinger at most, and not
	// longer than the last commit took.
	lingerFrom = 16
	maxLinger  = time.Millisecond
)

// submission is a message on its way to the database.
type submission struct {
	s               *session
	body            string
	clientMessageID string
}

// committer stores messages. One goroutine, run, takes all that wait, gives every message its seq, stores
// them in one transaction and only then publishes them: nobody sees what a crash could take back.
type committer struct {
	store   *store
	log     *slog.Logger
	metrics *metrics // nil: none
	queue   chan submission
	between chan struct{} // taken from when no batch is on its way
	stop    chan struct{}
	done    chan struct{} // closed when run has returned

	want   atomic.Int32  // so many waiting submissions are enough for a batch; 0: nobody asks
	enough chan struct{} // told once when there are

	// Scratch of run.
	batch []submission
	rooms []*room
	msgs  []message
	again []submission // resends of messages in the same batch
	timer *time.Timer
	// Of the last batch: how many messages were on their way at its commit, and how long that took.
	expected int
	lastTook time.Duration
}

func newCommitter(st *store, log *slog.Logger, maxMessage int) *committer {
	n := min(max(queueBytes/maxMessage, 64), maxBatch)
	return &committer{store: st, log: log, queue: make(chan submission, n), between: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{}),
		enough: make(chan struct{}, 1), timer: time.NewTimer(0)}
}

// submit hands a message over, and waits while the queue is full. It returns false if the session ended
// before there was room. The session must hold a slot for the message.
func (c *committer) submit(sub submission) bool {
	if !sub.s.hold() {
		return false
	}
	select {
	case c.queue <- sub:
		if want := c.want.Load(); want > 0 && len(c.queue) >= int(want) && c.want.CompareAndSwap(want, 0) {
			c.enough <- struct{}{}
		}
		return true
	case <-sub.s.done:
		sub.s.drop()
		return false
	}
}

// run works until drain.
func (c *committer) run() {
	defer close(c.done)
	for {
		select {
		case sub := <-c.queue:
			c.commit(c.gather(sub))
			clear(c.batch) // an idle server holds on to no session
		case <-c.between:
		case <-c.stop:
			for {
				select {
				case sub := <-c.queue:
					c.commit(c.gather(sub))
				default:
					return
				}
			}
		}
	}
}

// settle waits until the batch that is on its way, if there is one, is stored: of a session that was expelled before the
// call, nothing is from then on. errUnavailable: it takes longer than ctx does.
func (c *committer) settle(ctx context.Context) error {
	select {
	case c.between <- struct{}{}:
	case <-c.done:
	case <-ctx.Done():
		return errUnavailable
	}
	return nil
}

// drain stores what waits still, and stops. Nobody may submit any more.
func (c *committer) drain() {
	close(c.stop)
	<-c.done
}

// gather adds to the first message all others that wait. The result is valid until the next call.
func (c *committer) gather(first submission) []submission {
	c.batch = append(c.batch[:0], first)
	c.take()
	// Those who got the last batch answer it about now. One commit for both halves of a busy crowd costs much
	// less than one for each: the sync, the pages, and a frame for every member.
	if n := min(c.expected, cap(c.queue)) - len(c.batch); c.expected >= lingerFrom && n > 0 {
		c.await(n, min(c.lastTook, maxLinger))
		c.take()
	}
	return c.batch
}

// take moves what waits to the batch.
func (c *committer) take() {
	for len(c.batch) < cap(c.queue) {
		select {
		case sub := <-c.queue:
			c.batch = append(c.batch, sub)
		default:
			return
		}
	}
}

// await waits until n submissions wait, or for d.
func (c *committer) await(n int, d time.Duration) {
	c.want.Store(int32(n))
	if len(c.queue) < n {
		c.timer.Reset(d)
		select {
		case <-c.enough:
			c.timer.Stop()
			return
		case <-c.timer.C:
		}
	}
	if !c.want.CompareAndSwap(int32(n), 0) {
		<-c.enough // a submitter has just seen it
	}
}

func (c *committer) commit(batch []submission) {
	c.rooms = c.rooms[:0]
	for _, sub := range batch {
		if sub.s.failed || sub.s.expelled.Load() {
			sub.s.drop()
			continue
		}
		r := sub.s.room
		if len(r.batch) == 0 {
			c.rooms = append(c.rooms, r)
		}
		r.batch = append(r.batch, sub)
	}
	start := time.Now()
	err := c.answerResends()
	if err == nil {
		err = c.storeAll()
	}
	c.expected, c.lastTook = len(batch)+len(c.queue), time.Since(start)
	// A resend, or a message to a room that was deleted a moment ago: sort them out, and store the others.
	for tries := 0; errors.Is(err, errConflict) && tries < 3; tries++ {
		if err = c.sortOut(); err == nil {
			err = c.storeAll()
		}
	}
	var at time.Duration
	if err != nil {
		c.fail(err)
	} else {
		at = c.metrics.committed(start, len(c.msgs))
	}
	msgs := c.msgs
	for _, r := range c.rooms {
		if err == nil {
			publishBatch(r, msgs[:len(r.batch)], at)
			msgs = msgs[len(r.batch):]
		}
		clear(r.batch)
		r.batch = r.batch[:0]
	}
	clear(c.msgs)
	clear(c.rooms)
	if len(c.again) > 0 {
		again := c.again
		c.again = nil
		c.commit(again)
	}
}

// storeAll gives the messages of c.rooms their seqs and stores them.
func (c *committer) storeAll() error {
	now := time.Now().UnixMicro()
	c.msgs = c.msgs[:0]
	for _, r := range c.rooms {
		if len(r.batch) == 0 {
			continue // sorted out: the room may be gone
		}
		if r.next == 0 {
			last, err := c.store.lastSeq(context.Background(), r.id)
			if errors.Is(err, errNotFound) {
				return errConflict // sortOut deals with it
			} else if err != nil {
				return err
			}
			r.next = last + 1
			r.advance(last)
		}
		for i, sub := range r.batch {
			c.msgs = append(c.msgs, message{
				RoomID: r.id, Seq: r.next + uint64(i), UserID: sub.s.userID, UserName: sub.s.userName,
				SentAt: now, ClientMessageID: sub.clientMessageID, Body: sub.body,
			})
		}
	}
	if len(c.msgs) == 0 {
		return nil
	}
	return c.store.addMessages(c.msgs)
}

// publishBatch makes the stored messages of r.batch visible, which were committed at the time that metrics says.
func publishBatch(r *room, msgs []message, at time.Duration) {
	if len(msgs) == 0 {
		return
	}
	for i := range msgs {
		r.batch[i].s.stored(msgs[i].Seq)
	}
	r.next += uint64(len(msgs))
	blocks := makeBlocks(msgs)
	for _, b := range blocks {
		b.committed = at
	}
	r.publish(blocks)
	for i, sub := range r.batch {
		if sub.s.posted != nil {
			sub.s.posted <- msgs[i].Seq
		}
		if sub.s.own == nil { // else the slot is passed's to give back
			<-sub.s.slots
		}
		if sub.s.gone.Load() {
			sub.s.notify() // a half-closed stream ends when its last slot is free
		}
		sub.s.drop()
	}
}

// fail ends the sessions whose messages could not be stored. They come again, with the same
// client_message_id, so it does no harm if the commit took place and only its answer was lost.
func (c *committer) fail(err error) {
	e := toAPIError(context.Background(), c.log, err)
	for _, r := range c.rooms {
		r.next = 0
		for _, sub := range r.batch {
			sub.s.failed = true
			sub.s.end(e)
			sub.s.drop()
		}
	}
}

// sentID names a message as its sender does.
type sentID struct {
	room, user      int64
	clientMessageID string
}

// watchResends is how many messages of a session that has sent one again are looked up before they are stored: each
// conflict undoes a whole batch, of all rooms.
const watchResends = 64

// answerResends answers, of the sessions that have sent messages again a moment ago, those that are stored already.
func (c *committer) answerResends() error {
	stored, err := c.storedBefore(func(sub submission) bool {
		if sub.s.watched == 0 {
			return false
		}
		sub.s.watched--
		return true
	})
	if err != nil || len(stored) == 0 {
		return err
	}
	for _, r := range c.rooms {
		kept := r.batch[:0]
		for _, sub := range r.batch {
			if !answerResend(r, sub, stored) {
				kept = append(kept, sub)
			}
		}
		clear(r.batch[len(kept):])
		r.batch = kept
	}
	return nil
}

// storedBefore returns the stored messages that those of the batch which are chosen are resends of.
func (c *committer) storedBefore(chosen func(submission) bool) (map[sentID]message, error) {
	var wanted []message
	for _, r := range c.rooms {
		for _, sub := range r.batch {
			if sub.clientMessageID != "" && chosen(sub) {
				wanted = append(wanted, message{RoomID: r.id, UserID: sub.s.userID, ClientMessageID: sub.clientMessageID})
			}
		}
	}
	if len(wanted) == 0 {
		return nil, nil
	}
	found, err := c.store.storedBefore(wanted)
	if err != nil {
		return nil, err
	}
	stored := make(map[sentID]message, len(found))
	for _, m := range found {
		stored[sentID{m.RoomID, m.UserID, m.ClientMessageID}] = m
	}
	return stored, nil
}

// answerResend answers a message that is stored already.
func answerResend(r *room, sub submission, stored map[sentID]message) bool {
	m, known := stored[sentID{r.id, sub.s.userID, sub.clientMessageID}]
	if !known {
		return false
	}
	sub.s.watched = watchResends
	r.advance(m.Seq) // it may have been stored behind our back: a commit whose answer was lost
	m.UserName = sub.s.userName
	sub.s.answer(m.Seq, messageEvent(m))
	sub.s.drop()
	return true
}

// sortOut answers the messages that are stored already or whose room is gone, and takes them away. Of two in
// the batch with one id, the second goes to c.again: it is looked at when the first is stored.
func (c *committer) sortOut() error {
	for _, r := range c.rooms {
		r.next = 0
	}
	stored, err := c.storedBefore(func(submission) bool { return true })
	if err != nil {
		return err
	}
	inBatch := map[sentID]bool{}
	for _, r := range c.rooms {
		gone := false
		switch last, err := c.store.lastSeq(context.Background(), r.id); {
		case errors.Is(err, errNotFound):
			gone = true
		case err != nil:
			return err
		default:
			r.advance(last)
		}
		kept := r.batch[:0]
		for _, sub := range r.batch {
			id := sentID{r.id, sub.s.userID, sub.clientMessageID}
			switch {
			case gone:
				sub.s.end(errRoomDeleted)
				sub.s.drop()
			case answerResend(r, sub, stored):
			case sub.clientMessageID != "" && inBatch[id]:
				sub.s.watched = watchResends
				c.again = append(c.again, sub)
			default:
				inBatch[id] = true
				kept = append(kept, sub)
			}
		}
		clear(r.batch[len(kept):])
		r.batch = kept
	}
	return nil
}

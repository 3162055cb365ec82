package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"
)

// retention is how much of each room is kept: MESSAGE_RETENTION. The zero value keeps everything.
type retention struct {
	age   time.Duration // 0: messages of any age
	count uint64        // messages of a room; 0: any number
}

const (
	// retentionFloor is how long every message is kept: who comes back within it misses nothing, and whoever sends a
	// message again is answered with the seq that it has.
	retentionFloor = time.Hour
	// retentionPause is how long nothing is looked for after all rooms were seen to.
	retentionPause = 5 * time.Minute
	// purgeStep is how many messages one transaction takes away: few enough not to be felt by those who wait to commit.
	purgeStep = 500
)

// readRetention reads a duration, a number of messages, or both by comma.
func readRetention(text string) (r retention, err error) {
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" && strings.TrimSpace(text) == "" {
			continue
		}
		if n, err := strconv.ParseUint(part, 10, 63); err == nil && n > 0 && r.count == 0 {
			r.count = n
			continue
		}
		d, err := time.ParseDuration(part)
		if err != nil || d < retentionFloor || r.age != 0 {
			return retention{}, errors.New("want a duration of 1h or more, such as 720h, a number of messages, such as 10000, or both by comma")
		}
		r.age = d
	}
	return r, nil
}

// expired tells of a message whether it is to be removed, where last is the newest seq of its room.
func (r retention) expired(seq, last uint64, sentAt, now time.Time) bool {
	age := now.Sub(sentAt)
	return age >= retentionFloor && (r.age > 0 && age > r.age || r.count > 0 && last-seq >= r.count)
}

// purge removes what deleted rooms leave in the database, and what is past MESSAGE_RETENTION, until ctx ends. It makes a
// pause as long as each step took, so that commits come first.
func (s *chatServer) purge(ctx context.Context) {
	room := int64(0) // that the retention has come to
	for {
		start := time.Now()
		more, err := s.store.purgeDeletedRooms(ctx)
		if err == nil && !more && s.retention != (retention{}) {
			room, err = s.retain(ctx, room)
			more = room != 0
		}
		rest := time.Since(start)
		switch {
		case err != nil:
			if ctx.Err() == nil {
				s.log.Error("old messages cannot be removed", "cause", err)
			}
			rest = time.Minute
		case !more && s.retention != (retention{}):
			rest = retentionPause
		case !more:
			rest = 0
		}
		var next <-chan time.Time
		if rest > 0 {
			next = time.After(rest)
		}
		select {
		case <-ctx.Done():
			return
		case <-next:
		case <-s.deleted:
		}
	}
}

// retain removes the oldest messages of a room, up to purgeStep of them, if it has any that are past the retention. It
// returns the room to go on with, 0 after the last one.
func (s *chatServer) retain(ctx context.Context, room int64) (int64, error) {
	if room == 0 {
		return s.store.nextRoom(ctx, 0)
	}
	last, err := s.store.lastSeq(ctx, room)
	if errors.Is(err, errNotFound) {
		return s.store.nextRoom(ctx, room) // deleted meanwhile
	} else if err != nil {
		return room, err
	}
	now := time.Now()
	n, err := s.store.purgeMessages(ctx, room, func(seq uint64, sentAt time.Time) bool { return s.retention.expired(seq, last, sentAt, now) })
	if err != nil || n == purgeStep {
		return room, err
	}
	return s.store.nextRoom(ctx, room)
}

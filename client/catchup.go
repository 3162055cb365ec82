package client

import "context"

// catchUp puts the messages that the inbox is missing into it, until the room ends.
func (r *Room) catchUp() {
	var retries retries
	size := uint64(pageSize)
	for {
		after, asked, err := r.in.missing(r.ctx, size)
		if err != nil {
			return
		}
		page, until, err := r.page(r.ctx, after, asked)
		r.in.fill(page, until, err)
		switch {
		case err == nil && until < asked:
			size = until - after // as many as fit into an answer
			retries.reset()
		case err == nil:
			size = min(2*size, pageSize)
			retries.reset()
		case final(err):
			r.end(err)
		default:
			pause := retries.pause(err)
			r.log.Info("reading the history again", "after", after, "cause", err, "pause", pause)
			sleep(r.ctx, pause)
		}
	}
}

// page returns the messages after one seq until another, or until the one that it returns. The server sends
// the newest of what it is asked for, as many as fit into an answer: where the oldest is left out, page asks
// for less. What is left out then is no longer in the history.
func (r *Room) page(ctx context.Context, after, until uint64) ([]Message, uint64, error) {
	for {
		page, err := r.history(ctx, until+1, uint32(until-after))
		if err != nil {
			return nil, 0, err
		}
		page = between(page, after, until+1)
		if len(page) == 0 {
			until, err = r.emptyUntil(ctx, until)
			return nil, until, err
		}
		if page[0].Seq == after+1 {
			return page, until, nil
		}
		until = after + min(uint64(len(page)), (until-after)/2)
	}
}

// between returns the messages with a seq above after and below before, each once, in order.
func between(messages []Message, after, before uint64) []Message {
	kept := messages[:0]
	for _, m := range messages {
		if m.Seq > after && m.Seq < before {
			kept = append(kept, m)
			after = m.Seq
		}
	}
	return kept
}

// emptyUntil returns the seq before the oldest message after empty, where the history has none until there.
// What is gone may be many pages long, so it looks for its end by halving.
func (r *Room) emptyUntil(ctx context.Context, empty uint64) (uint64, error) {
	message := r.in.seen() + 1 // as if there was one: the stream shows what comes from there on
	for message-empty > 1 {
		middle := empty + (message-empty)/2
		newest, err := r.history(ctx, middle+1, 1)
		if err != nil {
			return 0, err
		}
		if newest = between(newest, empty, middle+1); len(newest) > 0 {
			message = newest[0].Seq
		} else {
			empty = middle
		}
	}
	return empty, nil
}

package client

import "time"

// calm is how long a sender that the server found too fast writes at its own pace.
const calm = 10 * time.Second

// pace spreads a room's messages out once the server has ended a stream with RATE_LIMITED: else it would end
// one after the other. The zero value does not hold up anything.
type pace struct {
	interval time.Duration // between messages
	until    time.Time     // when the interval is given up
	next     time.Time     // when the next message may go
}

// slowDown doubles the interval. It is at least what the server asked for.
func (p *pace) slowDown(now time.Time, asked time.Duration) {
	p.interval = min(max(2*p.interval, asked, time.Millisecond), maxPause)
	p.until = now.Add(max(calm, 2*p.interval))
}

// pause returns how long the next message has to wait. With 0 it goes now.
func (p *pace) pause(now time.Time) time.Duration {
	if p.interval == 0 {
		return 0
	}
	if now.After(p.until) {
		p.interval = 0
		return 0
	}
	if now.Before(p.next) {
		return p.next.Sub(now)
	}
	p.next = now.Add(p.interval)
	return 0
}

package client

// signal wakes goroutines that wait in a select. The mutex that guards what they wait for guards it too.
// The zero value is ready.
type signal struct {
	c chan struct{} // nil while nobody waits
}

// wait returns a channel that the next wake closes.
func (s *signal) wait() <-chan struct{} {
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

// wake wakes everybody who waits.
func (s *signal) wake() {
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}

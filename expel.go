package main

import "context"

// What ends where somebody must not be in a room any more: streams, presence, and messages that are on their way.

// expel ends with end what a user has in a room that it is no member of any more, unless err is not nil. When it returns nil,
// nothing of the user is stored there any more.
func (s *chatServer) expel(ctx context.Context, err error, room roomRow, u user, end error) error {
	if err != nil {
		return roomError(err)
	}
	s.hub.endMember(room.ID, u.ID, end)
	return s.committer.settle(ctx)
}

// endUser ends what an account has that was changed: its streams, and what they have sent.
func (s *chatServer) endUser(ctx context.Context, u user) error {
	s.hub.endUser(u.ID, u.Version, errTokenInvalid)
	return s.committer.settle(ctx)
}

// endUser ends the sessions of a user that began with an older version of the account. What they have sent and is not
// being stored yet never will be.
func (h *hub) endUser(userID, version int64, err error) {
	for _, r := range h.all() {
		r.expel(func(s *session) bool { return s.userID == userID && s.userVersion < version }, err)
	}
}

// endMember is endUser for all sessions of a user in one room, where it is not present any more.
func (h *hub) endMember(roomID, userID int64, err error) {
	r := h.find(roomID)
	if r == nil {
		return
	}
	r.expel(func(s *session) bool { return s.userID == userID }, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.present[userID]; p != nil && p.grace != nil && p.grace.Stop() {
		p.grace = nil
		r.depart(userID, nil)
		defer h.release(r)
	}
}

// expel ends the sessions that are chosen, and drops their messages.
func (r *room) expel(chosen func(*session) bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sessions := range []map[*session]struct{}{r.sessions, r.held} {
		for s := range sessions {
			if chosen(s) {
				s.expelled.Store(true)
				s.end(err)
			}
		}
	}
}

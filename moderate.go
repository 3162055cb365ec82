package main

import (
	"cmp"
	"context"
	"errors"
	"strings"
)

// What owners and ADMINs do to rooms and their members. The rules are asked twice: before any work, and in the transaction.

// mayChange is the rule of who may change a room: its owner, and an ADMIN. Others are not told what they are no members of.
func (u user) mayChange(room roomRow) error {
	switch {
	case u.Role == roleAdmin, room.OwnerID == u.ID:
		return nil
	case room.IsMember:
		return errNotOwner
	}
	return errRoomNotFound
}

// maySee is the rule of who may see the members of a room.
func (u user) maySee(room roomRow) error {
	if room.IsMember || u.Role == roleAdmin {
		return nil
	}
	return errRoomNotFound
}

// mayRemove is the rule of who may take a member out of a room: who may change it, and the member itself.
func (u user) mayRemove(room roomRow, member user) error {
	if member.ID == u.ID {
		return u.maySee(room)
	}
	return u.mayChange(room)
}

// mayBan is the rule of who may ban a user from a room, or lift that.
func (u user) mayBan(room roomRow, _ user) error { return u.mayChange(room) }

// room finds a room for u, if may allows it.
func (s *chatServer) room(ctx context.Context, u user, shortCode string, may func(roomRow) error) (roomRow, error) {
	code, err := readCode(shortCode)
	if err != nil {
		return roomRow{}, err
	}
	room, err := s.store.roomByCode(ctx, code, u.ID)
	if err != nil {
		return roomRow{}, roomError(err)
	}
	return room, may(room)
}

// roomUsers lists users of a room, for whom may allows it.
func (s *chatServer) roomUsers(ctx context.Context, shortCode string, may func(user, roomRow) error, list func(context.Context, int64) ([]roomUser, error)) (roomRow, []roomUser, error) {
	u := callerOf(ctx).user
	room, err := s.room(ctx, u, shortCode, func(room roomRow) error { return may(u, room) })
	if err != nil {
		return room, nil, err
	}
	users, err := list(ctx, room.ID)
	return room, users, err
}

// roomError is an error of the store about a room.
func roomError(err error) error {
	if errors.Is(err, errNotFound) {
		return errRoomNotFound
	}
	return err
}

// newRoom is what is to become of a room; nil: what it is.
type newRoom struct {
	RoomName     *string `json:"room_name"`
	RoomPassword *string `json:"room_password"`
	Owner        *string `json:"owner"`
}

// changeRoom changes a room, and returns it as it is then.
func (s *chatServer) changeRoom(ctx context.Context, shortCode string, to newRoom) (roomRow, error) {
	u := callerOf(ctx).user
	change := roomChange{Name: to.RoomName}
	switch {
	case to == newRoom{}:
		return roomRow{}, invalid("room_name", "There is nothing to change: give a room_name, a room_password or an owner.")
	case to.RoomName != nil:
		if err := checkRoomName(*to.RoomName); err != nil {
			return roomRow{}, err
		}
	}
	if to.RoomPassword != nil {
		if err := checkRoomPassword(*to.RoomPassword); err != nil {
			return roomRow{}, err
		}
	}
	room, err := s.room(ctx, u, shortCode, u.mayChange)
	if err != nil {
		return roomRow{}, err
	}
	// As a new room: it is a row of the audit log, which nothing deletes, and perhaps a hash.
	if err := take(try{s.limits.roomsPerUser, userKey(u.ID)}); err != nil {
		return roomRow{}, err
	}
	if to.Owner != nil {
		owner, err := s.store.userByName(ctx, *to.Owner)
		if err != nil && !errors.Is(err, errNotFound) {
			return roomRow{}, err
		}
		change.Owner = &owner // without an id, it is no member
	}
	if to.RoomPassword != nil {
		hash, err := s.passwords.hash(ctx, hashingOf(ctx), *to.RoomPassword)
		if err != nil {
			return roomRow{}, err
		}
		change.Hash, change.Open = &hash, *to.RoomPassword == ""
	}
	err = s.store.changeRoom(ctx, u, room.ID, change, u.mayChange)
	if errors.Is(err, errNoMember) {
		return roomRow{}, invalid("owner", "The new owner has to be a member of the room.")
	}
	if err == nil {
		room, err = s.store.roomByID(ctx, room.ID, u.ID)
	}
	return room, roomError(err)
}

// removeMember takes a member out of a room: another one, or the caller itself.
func (s *chatServer) removeMember(ctx context.Context, shortCode, name string) error {
	room, member, err := s.changeMember(ctx, shortCode, name, user.mayRemove, s.store.removeMember)
	end := errRemoved
	if member.ID == callerOf(ctx).user.ID {
		end = errLeft
	}
	return s.expel(ctx, err, room, member, end)
}

// ban takes a user out of a room, if it is a member, and keeps it out.
func (s *chatServer) ban(ctx context.Context, shortCode, name string) error {
	room, u, err := s.changeMember(ctx, shortCode, name, user.mayBan, s.store.ban)
	return s.expel(ctx, err, room, u, errBanned)
}

// unban lets a user in again that knows the room's password.
func (s *chatServer) unban(ctx context.Context, shortCode, name string) error {
	_, _, err := s.changeMember(ctx, shortCode, name, user.mayBan, s.store.unban)
	return roomError(err)
}

// changeMember changes what a user is to a room, by change, if may lets the caller. Who may not is told so, and not whether
// there is such a user.
func (s *chatServer) changeMember(ctx context.Context, shortCode, name string, may func(by user, room roomRow, u user) error,
	change func(ctx context.Context, by user, roomID int64, u user, may func(roomRow) error) error) (room roomRow, u user, err error) {
	by := callerOf(ctx).user
	if room, err = s.room(ctx, by, shortCode, by.maySee); err != nil {
		return room, u, err
	}
	u, err = s.userNamed(ctx, name)
	mayChange := func(room roomRow) error { return may(by, room, u) }
	if err = cmp.Or(mayChange(room), err); err != nil {
		return room, u, err
	}
	if err = take(try{s.limits.roomsPerUser, userKey(by.ID)}); err != nil { // as changeRoom
		return room, u, err
	}
	return room, u, change(ctx, by, room.ID, u, mayChange)
}

// userNamed finds the account of a name in a path. A space at its end is ignored where there is no such name: a browser takes
// a segment out of a path that is just dots, as a name can be.
func (s *chatServer) userNamed(ctx context.Context, name string) (user, error) {
	u, err := s.store.userByName(ctx, name)
	if trimmed := strings.TrimSuffix(name, " "); errors.Is(err, errNotFound) && trimmed != name {
		u, err = s.store.userByName(ctx, trimmed)
	}
	if errors.Is(err, errNotFound) {
		err = errUserNotFound
	}
	return u, err
}

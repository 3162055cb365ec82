package main

import (
	"fmt"
	"net/http"
	"time"
)

// asAdmin makes a route for ADMINs alone.
func (s *restServer) asAdmin(fn func(*http.Request) (any, error)) http.HandlerFunc {
	return s.asUser(func(r *http.Request) (any, error) {
		if callerOf(r.Context()).user.Role != roleAdmin {
			return nil, errNotAdmin
		}
		return fn(r)
	})
}

// pageOf reads what page of a list a request is about: of what is like text, behind or before a position, and how much at most.
func pageOf(r *http.Request, position string) (text string, from uint64, limit int, err error) {
	query, err := queryOf(r)
	if err != nil {
		return "", 0, 0, err
	}
	if from, err = number(query, position); err != nil {
		return "", 0, 0, err
	}
	n, err := number(query, "limit")
	switch {
	case err != nil:
		return "", 0, 0, err
	case n == 0:
		n = defaultPage
	case n > maxListed:
		return "", 0, 0, invalid("limit", fmt.Sprintf("The limit is at most %d.", maxListed))
	}
	return query.Get("query"), min(from, maxSeq), int(n), nil
}

// listed are the rows of a page as an answer has them.
func listed[T, A any](rows []T, fn func(T) A) []A {
	list := make([]A, 0, len(rows))
	for _, row := range rows {
		list = append(list, fn(row))
	}
	return list
}

// adminUser is an account in an answer to an ADMIN.
type adminUser struct {
	account
	Disabled bool `json:"disabled"`
}

func toAdminUser(u user) adminUser {
	return adminUser{toAccount(u), u.Disabled}
}

func (s *restServer) findUsers(r *http.Request) (any, error) {
	text, after, limit, err := pageOf(r, "after")
	if err != nil {
		return nil, err
	}
	users, err := s.store.findUsers(r.Context(), text, after, limit)
	return struct {
		Users []adminUser `json:"users"`
	}{listed(users, toAdminUser)}, err
}

// changeUser changes the role or the state of an account. What is so already stays, with its tokens.
func (s *restServer) changeUser(r *http.Request) (any, error) {
	body, err := readBody[struct {
		Role     *string `json:"role"`
		Disabled *bool   `json:"disabled"`
	}](r)
	switch {
	case err != nil:
		return nil, err
	case body.Role == nil && body.Disabled == nil:
		return nil, invalid("role", "There is nothing to change: give a role, or disabled.")
	case body.Role != nil && *body.Role != roleUser && *body.Role != roleAdmin:
		return nil, invalid("role", fmt.Sprintf("The role has to be %s or %s.", roleUser, roleAdmin))
	}
	u, err := s.changeNamed(r, func(u *user) (entries []auditEntry) {
		if body.Role != nil {
			entries = append(entries, u.setRole(*body.Role)...)
		}
		if body.Disabled != nil {
			entries = append(entries, u.setDisabled(*body.Disabled)...)
		}
		return entries
	})
	if err != nil {
		return nil, err
	}
	return toAdminUser(u), nil
}

// changeNamed changes the account that the path names.
func (s *restServer) changeNamed(r *http.Request, fn func(*user) []auditEntry) (user, error) {
	u, err := s.chat.userNamed(r.Context(), r.PathValue("user_name"))
	if err != nil {
		return u, err
	}
	return s.change(r, callerOf(r.Context()).user, u.Name, fn)
}

func (s *restServer) resetPassword(r *http.Request) (any, error) {
	body, err := readBody[struct {
		NewPassword string `json:"new_password"`
	}](r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	u, err := s.chat.userNamed(ctx, r.PathValue("user_name"))
	if err != nil {
		return nil, err
	}
	if u.ID == callerOf(ctx).user.ID { // who has stolen the token does not know the password
		return nil, invalid("user_name", "Change your own password with POST /account/password, which asks for the one that you have.")
	}
	if err := checkNewPassword(u.Name, body.NewPassword); err != nil {
		return nil, err
	}
	_, err = s.setPassword(r, callerOf(ctx).user, u.Name, body.NewPassword)
	return struct{}{}, err
}

func (s *restServer) endSessions(r *http.Request) (any, error) {
	_, err := s.changeNamed(r, func(u *user) []auditEntry { return []auditEntry{{auditUserSessions, u.Name, ""}} })
	return struct{}{}, err
}

// adminRoom is a room in an answer to an ADMIN.
type adminRoom struct {
	ID        int64     `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	restRoom
	Members int `json:"members"`
}

func (s *restServer) findRooms(r *http.Request) (any, error) {
	text, after, limit, err := pageOf(r, "after")
	if err != nil {
		return nil, err
	}
	rooms, err := s.store.findRooms(r.Context(), text, after, limit)
	return struct {
		Rooms []adminRoom `json:"rooms"`
	}{listed(rooms, func(r foundRoom) adminRoom { return adminRoom{r.ID, r.CreatedAt, toRoom(r.roomRow), r.Members} })}, err
}

type restAudit struct {
	ID        int64     `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	Actor     string    `json:"actor"`
	Action    string    `json:"action"`
	Target    string    `json:"target"`
	Detail    string    `json:"detail"`
}

func (s *restServer) listAudit(r *http.Request) (any, error) {
	text, before, limit, err := pageOf(r, "before")
	if err != nil {
		return nil, err
	}
	if before == 0 {
		before = maxSeq
	}
	rows, err := s.store.auditBefore(r.Context(), text, before, limit)
	return struct {
		Entries []restAudit `json:"entries"`
	}{listed(rows, func(a auditRow) restAudit {
		return restAudit{a.ID, a.CreatedAt, a.Actor, a.Action, a.Target, a.Detail}
	})}, err
}

package tui

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// memory is what the client remembers from one start to the next, in two files of a folder: chat.json, and token.json,
// which is there only if the person has said so. A password is never among it. Both files have the mode 0600.
type memory struct {
	folder string // "" where nothing can be remembered

	Server string `json:"server"`
	User   string `json:"user"`
	// Rooms is what is known of rooms, by server, user and short code.
	Rooms map[string]map[string]remembered `json:"rooms"`

	token savedToken
}

// remembered is what is known of a room.
type remembered struct {
	Read uint64 `json:"read"` // the seq up to which its messages have been seen
	Open bool   `json:"open"` // it was the one that was shown
	// Draft is what was being written.
	Draft string `json:"draft,omitempty"`

	anew bool   // Read is of other messages than what was remembered before
	own  string // the draft here when it was last remembered, or read
}

// savedToken stands for a password until it expires.
type savedToken struct {
	Server string `json:"server"`
	User   string `json:"user"`
	Token  string `json:"token"`
}

// of reports whether the token is one of an account.
func (t savedToken) of(server, user string) bool {
	return t.Token != "" && sameServer(server, t.Server) && strings.EqualFold(strings.TrimSpace(user), t.User)
}

const memoryFile, tokenFile = "chat.json", "token.json"

// recall reads what was remembered in the folder. What cannot be read is as if there were nothing, and is written anew.
func recall(folder string) *memory {
	m := &memory{folder: folder}
	if folder != "" {
		_ = m.read(memoryFile, m)
		_ = m.read(tokenFile, &m.token)
	}
	if m.Rooms == nil {
		m.Rooms = make(map[string]map[string]remembered)
	}
	for _, rooms := range m.Rooms {
		for code, r := range rooms {
			r.own = r.Draft
			rooms[code] = r
		}
	}
	return m
}

func (m *memory) read(name string, into any) error {
	b, err := os.ReadFile(filepath.Join(m.folder, name))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// rooms are the rooms of a user of a server, by short code.
func (m *memory) rooms(server, user string) map[string]remembered {
	return m.Rooms[roomsKey(server, user)]
}

func roomsKey(server, user string) string { return server + " " + strings.ToLower(user) }

// save remembers where the user is; without rooms, only who it is. What another client has written meanwhile of other
// users is kept, a message that was seen there has been seen, and a draft is that of the client in which it has changed.
func (m *memory) save(server, user string, rooms map[string]remembered) error {
	if m.folder == "" {
		return nil
	}
	now, before := recall(m.folder), m.rooms(server, user)
	for code, here := range rooms {
		there := now.rooms(server, user)[code]
		if !here.anew {
			here.Read = max(here.Read, there.Read)
		}
		here.own = here.Draft
		if here.own == before[code].own {
			here.Draft = there.Draft
		}
		rooms[code] = here
	}
	m.Server, m.User, m.Rooms = server, user, now.Rooms
	if rooms != nil {
		m.Rooms[roomsKey(server, user)] = rooms
	}
	return m.write(memoryFile, m)
}

// keep remembers a token, if it is another one than before: if the file has been removed meanwhile, by another client, it
// is not to come back.
func (m *memory) keep(t savedToken) error {
	if m.token == t {
		return nil
	}
	m.token = t
	return m.write(tokenFile, t)
}

// forget removes the token of an account. One that is kept for another account stays, and a file that makes no sense does
// not.
func (m *memory) forget(server, user string) error {
	if m.token.of(server, user) {
		m.token = savedToken{}
	}
	if m.folder == "" {
		return nil
	}
	var kept savedToken
	if err := m.read(tokenFile, &kept); err == nil && !kept.of(server, user) {
		return nil
	}
	err := os.Remove(m.tokenPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (m *memory) tokenPath() string { return filepath.Join(m.folder, tokenFile) }

// write replaces a file: after a crash there is the old one or the new one.
func (m *memory) write(name string, what any) error {
	if m.folder == "" {
		return nil
	}
	b, err := json.MarshalIndent(what, "", "\t")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if old, err := os.ReadFile(filepath.Join(m.folder, name)); err == nil && bytes.Equal(old, b) {
		return nil
	}
	if err := os.MkdirAll(m.folder, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(m.folder, name+".*") // of mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(m.folder, name))
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	return nil
}

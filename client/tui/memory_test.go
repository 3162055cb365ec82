package tui

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/grpcchatter/grpcchatter/client"
)

// Two clients of one user, and one of another, lose nothing of each other.
func TestMemoryOfTwo(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "made", "when needed")
	one, two := recall(folder), recall(folder)
	save := func(m *memory, user string, rooms map[string]remembered) {
		t.Helper()
		if err := m.save("http://a", user, rooms); err != nil {
			t.Fatal(err)
		}
	}
	save(one, "ann", map[string]remembered{"A": {Read: 5}, "B": {Read: 1}})
	save(two, "bob", map[string]remembered{"A": {Read: 7}})
	save(two, "ANN", map[string]remembered{"A": {Read: 3}, "B": {Read: 2, Open: true}})
	save(one, "ann", nil)
	if got := fmt.Sprint(recall(folder).rooms("http://a", "Ann")); got != "map[A:{5 false  false } B:{2 true  false }]" {
		t.Errorf("ann's rooms are %s", got)
	}
	if got := recall(folder).rooms("http://a", "bob")["A"].Read; got != 7 {
		t.Errorf("bob has read up to %d", got)
	}
	save(one, "ann", map[string]remembered{"A": {Read: 1, anew: true}})
	if got := recall(folder).rooms("http://a", "ann")["A"].Read; got != 1 {
		t.Errorf("after a restore ann has read up to %d", got)
	}

	token := savedToken{"http://a", "ann", "secret"}
	if err := one.keep(token); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(one.forget("http://a", "bob"), one.forget("http://b", "ann")); err != nil || one.token != token || recall(folder).token != token {
		t.Errorf("the token of another account is gone: %v", err)
	}
	if err := recall(folder).forget("http://a/", "Ann"); err != nil {
		t.Fatal(err)
	}
	if err := one.keep(token); err != nil || recall(folder).token != (savedToken{}) {
		t.Errorf("a token that another client has removed came back, %v", err)
	}
	for _, name := range []string{memoryFile, tokenFile} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte("[]{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	save(recall(folder), "ann", map[string]remembered{"A": {Read: 9}})
	if got := recall(folder).rooms("http://a", "ann")["A"].Read; got != 9 {
		t.Errorf("after a file that makes no sense ann has read up to %d", got)
	}
}

// What is being written is there again at the next start, and is nobody else's; two clients do not bring back what one has sent.
func TestDraftsRemembered(t *testing.T) {
	folder := t.TempDir()
	list := []client.ChatRoom{{ShortCode: "A", Name: "a"}, {ShortCode: "B", Name: "b"}}
	start := func() *app {
		a := inLobby(t)
		a.server, a.user, a.listed, a.memory = "http://a", "ann", true, recall(folder)
		a.merge(list)
		a.show(a.rooms[0])
		return a
	}
	drafts := func(a *app) string { return fmt.Sprintf("%q", []string{a.draft(a.rooms[0]), a.draft(a.rooms[1])}) }
	first := start()
	first.input.set("in a")
	first.step(1)
	first.input.set("in\nb")
	first.remember()
	one, two := start(), start()
	if got := drafts(one); got != `["in a" "in\nb"]` {
		t.Errorf("after the start the drafts are %s", got)
	}
	one.input.take() // it has been sent
	one.remember()
	two.step(1)
	two.input.set("in b, and more")
	two.remember()
	one.remember()
	if got := drafts(start()); got != `["" "in b, and more"]` {
		t.Errorf("after two clients the drafts are %s", got)
	}
	if two.unkept() != nil {
		t.Error("what is remembered is said to be lost")
	}
	two.memory.folder = ""
	if got := fmt.Sprint(two.unkept()); got != "[a: in a b: in b, and more]" {
		t.Errorf("with no folder there are %s", got)
	}
	three := start()
	three.logoutCommand("")
	if got := drafts(start()); got != `["" ""]` {
		t.Errorf("after /logout the drafts are %s", got)
	}
	if three.input.recall(three.input.at - 1); three.input.value() != "in b, and more" {
		t.Errorf("after /logout Up brings back %q", three.input.value())
	}
}

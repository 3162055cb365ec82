package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// back presses the browser's Back key.
func (p *page) back() {
	p.t.Helper()
	eval[bool](p, `history.back() || true`)
}

// inRoom waits until the page shows a room.
func (p *page) inRoom(name string) {
	p.t.Helper()
	p.awaitText("#room-name", name)
}

// codeOf is the code in an invitation.
func codeOf(link string) string { return link[strings.LastIndex(link, "#")+1:] }

// Nobody becomes a member by the Back key or by loading the page anew: not again where they have left or were removed, and
// not where somebody else was, whose steps are in the tab's history. All three were members at once and without a word,
// in rooms without a password.
func TestPageJoinsOnlyWhoAsks(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	home := "http://" + p.addr + "/"
	ann := b.open("ann", home)
	ann.register("ann")
	alpha := ann.createRoom("Alpha", "")
	beta := ann.createRoom("Beta", "")
	token := p.login("ann")
	members := func(want ...string) {
		t.Helper()
		got := column(p.must(200, "", "GET", "/rooms/"+codeOf(alpha)+"/members", token, ""), "members", "user_name")
		if !slices.Equal(got, want) {
			t.Errorf("the members of Alpha are %q, want %q", got, want)
		}
	}

	// Who has left comes back by the Back key.
	ben := b.open("ben", alpha)
	ben.register("ben")
	ben.inRoom("Alpha")
	for _, step := range []struct{ link, name string }{{beta, "Beta"}, {alpha, "Alpha"}} {
		ben.do(chromedp.Navigate(step.link))
		ben.inRoom(step.name)
	}
	ben.click("#settings")
	ben.click("#leave-room")
	ben.confirm()
	ben.awaitText("#no-room", "No room is open")
	ben.back()
	ben.inRoom("Beta")
	ben.back()
	ben.awaitText("#join-dialog .error", "not in this room any more")
	members("ann")
	ben.click("#join-dialog button.main")
	ben.inRoom("Alpha")
	members("ann", "ben")

	// Who was removed while the page was not there loads it anew.
	ben.do(chromedp.Navigate("about:blank"))
	p.must(200, "", "DELETE", "/rooms/"+codeOf(alpha)+"/members/ben", token, "")
	ben.do(chromedp.Navigate(alpha))
	ben.awaitText("#join-dialog .error", "not in this room any more")
	ben.do(chromedp.Reload())
	ben.awaitText("#join-dialog .error", "not in this room any more")
	members("ann")
	ben.click("#join-dialog [value=cancel]")
	ben.awaitText("#no-room", "No room is open")

	// Somebody else registers where ann was, and goes back.
	ann.do(chromedp.Navigate(alpha))
	ann.inRoom("Alpha")
	ann.do(chromedp.Navigate(beta))
	ann.inRoom("Beta")
	ann.click("#log-out")
	ann.awaitText("h1", "Log in")
	ann.register("mallory")
	ann.back()
	ann.awaitText("#join-title", codeOf(alpha))
	ann.do(chromedp.Reload())
	ann.awaitText("#join-title", codeOf(alpha))
	members("ann")
	ann.click("#join-dialog button.main") // the room is open to all who ask
	ann.inRoom("Alpha")
	members("ann", "mallory")
	ann.do(chromedp.Reload())
	ann.inRoom("Alpha")
	ben.wantQuiet("WebSocket connection to")
	ann.wantQuiet()
}

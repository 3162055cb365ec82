package main

import (
	"fmt"
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

// Logging out asks also when what is not sent was written in another tab, and says what is true now: it is lost
// otherwise, for all tabs.
func TestPageLogOutCountsAllTabs(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	ann := b.open("ann", "http://"+p.addr+"/")
	ann.register("ann")
	link := ann.createRoom("Alpha", "")
	outbox := fmt.Sprintf(`localStorage["grpcchatter.outbox/ann/%s"]`, codeOf(link))
	two := ann.openTab(link)
	two.inRoom("Alpha")
	two.await("document.querySelector('#present-count').innerText === '1'") // its session is open
	p.kill()
	two.say("precious")
	two.awaitText("#messages li[data-state=pending]", "precious")
	ann.await(outbox)
	ann.click("#log-out")
	ann.awaitText("#ask-text", "One message has not been sent yet")
	ann.click("#ask-dialog [value=cancel]")
	ann.await("!document.querySelector('#ask-dialog').open && !document.querySelector('#chat').hidden")
	ann.await(outbox)

	ann.click("#log-out")
	ann.awaitText("#ask-text", "One message has not been sent yet")
	p.start()
	ann.awaitText("#messages", "precious")
	ann.awaitText("#ask-text", "Everything has been sent")
	ann.confirm()
	two.awaitText("#sign-in-reason", "logged out in another tab")
}

// What is read, or discarded, in one tab is so in the user's others, whatever room they show.
func TestPageTabsAgree(t *testing.T) {
	t.Parallel()
	p := startWatched(t, "--max-message-size=100")
	b := startBrowser(t)
	ann := b.open("ann", "http://"+p.addr+"/")
	ann.register("ann")
	alpha := ann.createRoom("Alpha", "")
	beta := ann.createRoom("Beta", "")
	two := ann.openTab(alpha)
	two.inRoom("Alpha")
	ann.do(chromedp.Navigate(alpha))
	ann.inRoom("Alpha")
	ben := p.must(200, "", "POST", "/rooms/"+codeOf(beta)+"/join", p.login("ben"), "{}").json["token"].(string)
	p.sayIn(codeOf(beta), ben, "one", "two", "three")
	for _, one := range []*page{ann, two} {
		one.awaitText("#room-list", "3")
		one.await("document.title.startsWith('(3)')")
	}
	ann.do(chromedp.Navigate(beta))
	ann.awaitText("#messages", "three")
	ann.await("!document.title.startsWith('(')")
	two.await("!document.title.startsWith('(') && !document.querySelector('#room-list').innerText.includes('3')")
	two.inRoom("Alpha")

	// The other tab has a rejected message of the outbox that it was opened with.
	ann.say(strings.Repeat("too long ", 20))
	ann.awaitText("#messages li[data-state=rejected]", "too long")
	two.do(chromedp.Navigate(beta), chromedp.Reload())
	two.awaitText("#messages li[data-state=rejected]", "too long")
	ann.click("#messages li[data-state=rejected] .reason button:last-child") // Discard
	two.await("!document.querySelector('#messages li[data-state=rejected]') && document.querySelector('#messages').innerText.includes('three')")
	ann.wantQuiet()
	two.wantQuiet()
}

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
	members := func(link string, want ...string) {
		t.Helper()
		got := column(p.must(200, "", "GET", "/rooms/"+codeOf(link)+"/members", token, ""), "members", "user_name")
		if !slices.Equal(got, want) {
			t.Errorf("the members of %s are %q, want %q", link, got, want)
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
	members(alpha, "ann")
	ben.click("#join-dialog button.main")
	ben.inRoom("Alpha")
	members(alpha, "ann", "ben")

	// Who was removed while the page was not there loads it anew.
	ben.do(chromedp.Navigate("about:blank"))
	p.must(200, "", "DELETE", "/rooms/"+codeOf(beta)+"/members/ben", token, "")
	ben.do(chromedp.Navigate(beta))
	ben.awaitText("#join-dialog .error", "not in this room any more")
	ben.do(chromedp.Reload())
	ben.awaitText("#join-dialog .error", "not in this room any more")
	members(beta, "ann")
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
	members(alpha, "ann", "ben")
	ann.click("#join-dialog button.main") // the room is open to all who ask
	ann.inRoom("Alpha")
	members(alpha, "ann", "ben", "mallory")
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

// A dialog goes with the room that it is about, and with no other: the end of a room closed an invitation to another, and
// a new password half typed, and the Back key left questions about a room over the next one.
func TestPageDialogsOfARoom(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	home := "http://" + p.addr + "/"
	ann := b.open("ann", home)
	ann.register("ann")
	token := p.login("ann")
	alpha := ann.createRoom("Alpha", "")
	beta := ann.createRoom("Beta", "")
	remove := func(link, name string) {
		t.Helper()
		p.must(200, "", "DELETE", "/rooms/"+codeOf(link), token, "")
		ann.await(fmt.Sprintf("document.querySelector('#notice').innerText.includes(%q)", name))
	}
	open := func(dialogs ...string) {
		t.Helper()
		got := eval[[]string](ann, "[...document.querySelectorAll('dialog[open]')].map((e) => e.id)")
		if !slices.Equal(got, dialogs) {
			t.Errorf("the open dialogs are %q, want %q", got, dialogs)
		}
	}

	// The invitation to Beta outlives Alpha.
	ann.click("#invite")
	remove(alpha, "Alpha")
	open("invite-dialog")
	ann.click("#close-invite")

	// The new password outlives the room that is shown.
	ann.click("#me")
	ann.click("#change-password")
	ann.fill("#ask-password", "half typed")
	remove(beta, "Beta")
	ann.await("document.querySelector('#room').hidden")
	open("account-dialog", "ask-dialog")
	if typed := eval[string](ann, "document.querySelector('#ask-password').value"); typed != "half typed" {
		t.Errorf("what was typed is %q", typed)
	}
	ann.click("#ask-dialog [value=cancel]")
	ann.click("#account-dialog [value=cancel]")

	// The Back key takes what is asked about a room with it.
	gamma := ann.createRoom("Gamma", "")
	ann.createRoom("Delta", "")
	for _, button := range []string{"#rename", "#room-password", "#ban-name", ""} {
		ann.click("#settings")
		if button != "" {
			ann.click(button)
			ann.awaitText("#ask-dialog", "Cancel")
		}
		ann.back()
		ann.inRoom("Gamma")
		open()
		eval[bool](ann, "history.forward() || true")
		ann.inRoom("Delta")
	}
	ann.click("#delete-room")
	ann.awaitText("#ask-dialog", "Delta")
	ann.back()
	ann.inRoom("Gamma")
	open()

	// A question that is answered late is still about its room: the answer to it, which the Back key has not waited for, is
	// that the room is gone.
	eval[bool](ann, "history.forward() || true")
	ann.inRoom("Delta")
	delta := eval[string](ann, "document.querySelector('#room-code').innerText")
	release, _ := ann.hold("DELETE", "/rooms/"+delta)
	ann.click("#delete-room")
	ann.click("#ask-confirm")
	ann.await("window.held")
	ann.back()
	ann.inRoom("Gamma")
	open()
	release()
	ann.await("!document.querySelector('#room-list').innerText.includes('Delta')")
	ann.inRoom("Gamma")
	if code := eval[string](ann, "document.querySelector('#room-code').innerText"); code != codeOf(gamma) {
		t.Errorf("the page shows %s", code)
	}
	release, _ = ann.hold("DELETE", "/rooms/"+codeOf(gamma))
	ann.click("#delete-room")
	ann.click("#ask-confirm")
	ann.await("window.held")
	ann.click("#ask-dialog [value=cancel]")
	release()
	ann.awaitText("#no-room", "No room is open")
	ann.wantQuiet()
}

// Who is removed, or whose room is deleted, is told what was not sent, and can copy it; what was being written is there
// when one is back. It was gone without a word.
func TestPageEndKeepsWhatWasWritten(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	home := "http://" + p.addr + "/"
	owner := p.login("ann")
	room := func(name string) (link string) {
		t.Helper()
		code := p.must(200, "", "POST", "/rooms", owner, fmt.Sprintf(`{"room_name":%q}`, name)).json["short_code"].(string)
		return home + "#" + code
	}
	alpha, beta, gamma := room("Alpha"), room("Beta"), room("Gamma")
	path := func(link string) string { return "/rooms/" + codeOf(link) }
	told := func(one *page, text, unsent string) {
		t.Helper()
		one.awaitText("#notice-text", text)
		if got := eval[string](one, "document.querySelector('#unsent').value"); got != unsent {
			t.Errorf("after %q, what is to be copied is %q, want %q", text, got, unsent)
		}
	}
	ben := b.open("ben", alpha)
	ben.register("ben")
	for _, step := range []struct{ link, name string }{{alpha, "Alpha"}, {beta, "Beta"}, {gamma, "Gamma"}, {alpha, "Alpha"}} {
		ben.do(chromedp.Navigate(step.link))
		ben.inRoom(step.name)
	}

	// A draft, and who is removed.
	ben.awaitText("#present-list", "ben") // the session is open: it tells why it ends
	ben.fill("#message", "a long text")
	p.must(200, "", "DELETE", path(alpha)+"/members/ben", owner, "")
	told(ben, "What you were writing was not sent.", "a long text")
	ben.everywhere("61 what was not sent")
	ben.click("#copy-unsent")
	ben.await("document.querySelector('#copy-unsent').innerText !== 'Copy'")
	if got := eval[string](ben, "getSelection().toString() || unsent.value.slice(unsent.selectionStart, unsent.selectionEnd)"); got != "a long text" {
		t.Errorf("copied is %q", got)
	}
	ben.click("#close-notice")
	ben.do(chromedp.Navigate(alpha))
	ben.click("#join-dialog button.main")
	ben.inRoom("Alpha")
	ben.await("document.querySelector('#message').value === 'a long text'")

	// A message that waits, and a room that is deleted; its draft is lost with it, and to be copied too.
	ben.do(chromedp.Navigate(beta))
	ben.inRoom("Beta")
	ben.awaitText("#present-list", "ben")
	// No answer comes to what is said: the session does not hear it.
	eval[bool](ben, `((send) => (WebSocket.prototype.send = function (data) { if (!data.includes('"body"')) send.call(this, data); }, true))(WebSocket.prototype.send)`)
	ben.say("written while away")
	ben.say("and this")
	ben.fill("#message", "and more")
	p.must(200, "", "DELETE", path(beta), owner, "")
	told(ben, "2 messages were not sent.", "written while away\n\nand this\n\nand more")

	// What is told next takes none of it away.
	ben.do(chromedp.Navigate(gamma))
	ben.inRoom("Gamma")
	ben.awaitText("#present-list", "ben")
	ben.say("a third")
	ben.awaitText("#messages li[data-state=pending]", "a third")
	p.must(200, "", "DELETE", path(gamma)+"/members/ben", owner, "")
	told(ben, "One message was not sent.", "written while away\n\nand this\n\nand more\n\na third")
	ben.click("#close-notice")

	// All of it while the page was not there.
	ben.do(chromedp.Navigate(gamma), chromedp.Reload()) // it can send again
	ben.click("#join-dialog button.main")
	ben.inRoom("Gamma")
	p.kill()
	ben.say("to nobody")
	ben.awaitText("#messages li[data-state=pending]", "to nobody")
	ben.do(chromedp.Navigate("about:blank"))
	p.start()
	p.must(200, "", "DELETE", path(gamma)+"/members/ben", owner, "")
	ben.do(chromedp.Navigate(home))
	told(ben, "One message was not sent.", "to nobody")
	if left := eval[string](ben, "Object.keys(localStorage).join()"); strings.Contains(left, "outbox") {
		t.Errorf("the browser has %s", left)
	}
}

// Each tab has what is being written in it, also when it is loaded anew, whatever is sent in another. There was one draft
// for all.
func TestPageDraftOfEachTab(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	ann := b.open("ann", "http://"+p.addr+"/")
	ann.register("ann")
	alpha := ann.createRoom("Alpha", "")
	two := ann.openTab(alpha)
	two.inRoom("Alpha")
	holds := func(one *page, text string) {
		t.Helper()
		one.await(fmt.Sprintf("document.querySelector('#message').value === %q", text))
	}
	for i, tabs := range [][]*page{{ann, two}, {two, ann}} {
		for _, one := range tabs {
			one.fill("#message", fmt.Sprintf("%d by %s", i, one.name))
		}
		ann.pressEnter()
		two.awaitText("#messages", fmt.Sprintf("%d by ann", i))
		two.do(chromedp.Reload())
		holds(two, fmt.Sprintf("%d by ann's other tab", i))
		ann.do(chromedp.Reload())
		ann.inRoom("Alpha")
		holds(ann, "")
		two.clear("#message")
	}

	// What is written last is there in a tab that is opened, and after a log-out nowhere.
	two.fill("#message", "a draft")
	three := ann.openTab(alpha)
	three.inRoom("Alpha")
	holds(three, "a draft")
	ann.click("#log-out")
	for _, one := range []*page{ann, two, three} {
		one.awaitText("h1", "Log in")
		if left := eval[string](one, "JSON.stringify([localStorage, sessionStorage])"); strings.Contains(left, "draft") {
			t.Errorf("%s has %s", one.name, left)
		}
	}
}

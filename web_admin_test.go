package main

import (
	"fmt"
	"testing"

	"github.com/chromedp/chromedp"
)

// press clicks a button of a list's row, by the name that a screen reader tells.
func (p *page) press(label string) {
	p.t.Helper()
	p.click(fmt.Sprintf("[aria-label=%q]", label))
}

// confirm answers a question with yes, and waits until what it was about is done.
func (p *page) confirm() {
	p.t.Helper()
	p.click("#ask-confirm")
	p.await("!document.querySelector('#ask-dialog').open")
}

// everywhere keeps pictures of the page in wide and narrow, light and dark, and finds what does not fit.
func (p *page) everywhere(what string) {
	p.t.Helper()
	for _, size := range []struct {
		name string
		step chromedp.Action[chromedp.Void]
		wide int
	}{{"wide", chromedp.EmulateViewport(1280, 800), 1280}, {"phone", chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile), 360}} {
		p.do(size.step)
		for _, dark := range []bool{false, true} {
			p.dark(dark)
			p.shot(fmt.Sprintf("%s, %s, dark %t", what, size.name, dark))
		}
		if wide := eval[int](p, "document.documentElement.scrollWidth"); wide > size.wide {
			p.t.Errorf("%s: the page is %d px wide in a window of %d", what, wide, size.wide)
		}
		if out := eval[string](p, `[...document.querySelectorAll("dialog[open] :is(button, input, .what)")].filter((e) => e.checkVisibility()
			&& (e.getBoundingClientRect().right > innerWidth || e.scrollWidth > e.clientWidth + 1 && e.tagName === "BUTTON")).map((e) => e.outerHTML).join()`); out != "" {
			p.t.Errorf("%s: in a window of %d px this does not fit: %s", what, size.wide, out)
		}
	}
	p.do(chromedp.EmulateViewport(1280, 800))
	p.dark(false)
}

// An owner removes, bans, renames and hands over in the page; those it is done to are told so, and stay out.
func TestPageModeration(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	home := "http://" + p.addr + "/"
	ann := b.open("ann", home)
	ann.register("ann")
	link := ann.createRoom("Tea time", "")
	code := codeOf(link)
	ben := b.open("ben", link)
	ben.register("ben")
	ben.awaitText("#room-name", "Tea time")
	carla := p.login("carla")
	p.must(200, "", "POST", "/rooms/"+code+"/join", carla, "{}")
	dots := p.login("..")
	p.must(200, "", "POST", "/rooms/"+code+"/join", dots, "{}")
	path := "/rooms/" + code
	members := func(want ...string) {
		t.Helper()
		wantList(t, "the members", column(p.must(200, "", "GET", path+"/members", carla, ""), "members", "user_name"), want...)
	}

	// A member sees who the members are, and nothing to change.
	ben.click("#settings")
	ben.awaitText("#members", "carla")
	if n := eval[int](ben, "[...document.querySelectorAll('#settings-dialog button')].filter((e) => e.checkVisibility()).length"); n != 2 {
		t.Errorf("a member sees %d buttons, want to leave and to close", n)
	}
	ben.everywhere("21 a member's settings")
	ben.click("#settings-dialog [value=cancel]")

	ann.click("#settings")
	ann.awaitText("#members", "ben")
	ann.everywhere("22 an owner's settings")
	// Somebody whose name a browser takes out of a path.
	ann.press("Remove: ..")
	ann.confirm()
	ann.await("!document.querySelector('#members').innerText.includes('..')")

	ann.press("Remove: ben")
	ann.awaitText("#ask-dialog", "Remove ben?")
	ann.shot("23 a question")
	ann.confirm()
	ben.awaitText("#notice", "removed")
	ben.awaitText("#no-room", "No room is open")
	ben.everywhere("24 removed")
	members("ann", "carla")
	ben.do(chromedp.Navigate(link))
	ben.click("#join-dialog button.main") // nobody is a member again without being asked
	ben.awaitText("#room-name", "Tea time")
	ann.await("!document.querySelector('#ask-dialog').open")
	ann.click("#settings-dialog [value=cancel]")
	ann.click("#settings")
	ben.awaitText("#present-list", "ben") // his session is open: it tells why it ends
	ann.press("Ban: ben")
	ann.confirm()
	ben.awaitText("#notice", "banned")
	ann.awaitText("#bans", "ben")
	ann.click("#ban-name")
	ann.fill("#ask-name", "nobody")
	ann.click("#ask-confirm")
	ann.awaitText("#ask-dialog .error", "no account")
	ann.clear("#ask-name")
	ann.fill("#ask-name", "..")
	ann.confirm()
	ann.awaitText("#bans", "..")
	ann.everywhere("25 bans")
	ben.do(chromedp.Navigate(home+"#"), chromedp.Navigate(link))
	ben.click("#join-dialog button.main")
	ben.awaitText("#join-dialog .error", "may not enter")
	ben.click("#join-dialog [value=cancel]")
	ann.press("Unban ben")
	ann.await("!document.querySelector('#bans').innerText.includes('ben')")
	ben.do(chromedp.Navigate(home+"#"), chromedp.Navigate(link))
	ben.click("#join-dialog button.main")
	ben.awaitText("#room-name", "Tea time")
	members("ann", "ben", "carla")

	// Removed while the connection is away, ben does not come back by himself, though there is no password.
	p.kill()
	st, err := openStore(t.Context(), storeOptions{URL: databaseURL(t, p.dir)})
	if err != nil {
		t.Fatal(err)
	}
	user, err := st.userByName(t.Context(), "ben")
	if err == nil {
		err = st.removeMember(t.Context(), userOf(t, st, "ann"), 1, user, func(roomRow) error { return nil })
	}
	if err != nil || st.close() != nil {
		t.Fatal(err)
	}
	p.start()
	ben.awaitText("#notice", "no longer a member")
	members("ann", "carla")

	// The name, the password, the owner.
	ann.await("document.querySelector('#banner').innerText === ''")
	ann.click("#rename")
	ann.clear("#ask-name")
	ann.fill("#ask-name", "Coffee time")
	ann.confirm()
	ann.awaitText("#settings-title", "Coffee time")
	ann.click("#room-password")
	ann.fill("#ask-password", "earl grey")
	ann.shot("26 a new password")
	ann.confirm()
	p.must(403, "ROOM_ACCESS_DENIED", "POST", path+"/join", dots, "{}")
	p.must(200, "", "POST", path+"/join", p.login("dora"), `{"room_password":"earl grey"}`)
	ann.press("Make owner: carla")
	ann.confirm()
	ann.awaitText("#members", "dora") // the list is loaded anew
	ann.await("document.querySelector('#room-changes').hidden && !document.querySelector('#leave-room').hidden")
	ann.click("#leave-room")
	ann.confirm()
	ann.awaitText("#no-room", "No room is open")
	members("carla", "dora")
	if text := eval[string](ann, "document.querySelector('#notice').innerText"); text != "" {
		t.Errorf("who leaves is told %q", text)
	}
	expected := []string{"403 (Forbidden)", "404 (Not Found)", "401 (Unauthorized)", "net::ERR_", "WebSocket connection to"}
	ann.wantQuiet(expected...)
	ben.wantQuiet(expected...)
}

func userOf(t *testing.T, st *store, name string) user {
	t.Helper()
	u, err := st.userByName(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Somebody changes the own password and deletes the own account; an ADMIN sees to all others.
func TestPageAccounts(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	home := "http://" + p.addr + "/"
	const newPassword = "another password"
	ann := b.open("ann", home)
	ann.register("ann")
	ann.createRoom("Tea time", "")
	elsewhere := p.login("ann")
	ann.click("#me")
	ann.awaitText("#account-title", "ann")
	ann.everywhere("31 account")
	ann.click("#change-password")
	ann.fill("#ask-password", "wrong password")
	ann.fill("#ask-new_password", "short")
	ann.click("#ask-confirm")
	ann.awaitText("#ask-dialog .error", "at least 8")
	ann.clear("#ask-new_password")
	ann.fill("#ask-new_password", newPassword)
	ann.click("#ask-confirm")
	ann.awaitText("#ask-dialog .error", "The password is wrong.")
	ann.everywhere("32 a wrong password")
	ann.clear("#ask-password")
	ann.fill("#ask-password", testPassword)
	ann.confirm()
	ann.awaitText("#notice", "Your password is changed")
	ann.awaitText("#room-name", "Tea time")
	ann.shot("33 the password is changed")
	p.must(401, "TOKEN_INVALID", "GET", "/account", elsewhere, "")
	ann.say("still here")
	ann.await("document.querySelector('#messages > li[data-state=sent]')")
	ann.do(chromedp.Reload())
	ann.awaitText("#messages", "still here")

	// An ADMIN.
	ben := b.open("ben", home)
	ben.register("ben")
	link := ben.createRoom("Ben's own", "")
	p.admin("root")
	root := b.open("root", home)
	release, _ := root.hold("GET", "/account")
	root.logIn("root")
	root.click("#me")
	root.awaitText("#account-title", "root")
	if eval[bool](root, "document.querySelector('#administration').checkVisibility()") {
		t.Error("administration is offered before the page knows who is an ADMIN")
	}
	release()
	root.click("#administration")
	root.awaitText("#admin-list", "ben")
	root.everywhere("34 users")
	root.fill("#admin-query", "BE")
	root.await("!document.querySelector('#admin-list').innerText.includes('ann')")
	root.awaitText("#admin-list", "ben")
	root.press("Make admin: ben")
	root.confirm()
	root.awaitText("#admin-list", "administrator")
	ben.awaitText("#sign-in-reason", "logged out")
	ben.everywhere("35 logged out")
	ben.logIn("ben")
	ben.awaitText("#room-list", "Ben's own")
	root.press("Make user: ben")
	root.confirm()
	root.press("New password: ben")
	root.fill("#ask-password", "a third password")
	root.confirm()
	root.press("Log out: ben")
	root.confirm()
	root.press("Disable: ben")
	root.confirm()
	root.awaitText("#admin-list", "disabled")
	ben.awaitText("#sign-in-reason", "logged out")
	ben.fill("#user-name", "ben")
	ben.fill("#password", "a third password")
	ben.click("#sign-in-submit")
	ben.awaitText("#sign-in-error", "disabled")
	root.press("Enable: ben")
	root.confirm()
	ben.click("#sign-in-submit")
	ben.awaitText("#room-list", "Ben's own")
	root.clear("#admin-query")
	root.fill("#admin-query", "root")
	root.await("document.querySelectorAll('#admin-list > li').length === 1")
	root.press("Make user: root")
	root.click("#ask-confirm")
	root.awaitText("#ask-dialog .error", "last administrator")
	root.click("#ask-dialog [value=cancel]")

	root.click("[data-what=rooms]")
	root.awaitText("#admin-list", "Tea time")
	root.everywhere("36 rooms")
	root.press("Delete: Tea time")
	root.confirm()
	ann.awaitText("#notice", "deleted")
	root.await("!document.querySelector('#admin-list').innerText.includes('Tea time')")
	root.click("[data-what=audit]")
	root.awaitText("#admin-list", "root deleted the room")
	root.awaitText("#admin-list", "A command on the server changed the role of root")
	root.everywhere("37 audit log")
	root.click("#admin-dialog [value=cancel]")
	root.do(chromedp.Navigate(link))
	root.awaitText("#room-name", "Ben's own")
	root.click("#delete-room")
	root.awaitText("#ask-dialog", "Ben's own")
	root.confirm()
	ben.awaitText("#notice", "deleted")

	// The end of an account.
	ann.click("#me")
	ann.click("#delete-account")
	ann.fill("#ask-password", newPassword)
	ann.everywhere("38 delete the account")
	ann.confirm()
	ann.awaitText("#sign-in-reason", "Your account is deleted")
	if left := eval[string](ann, "JSON.stringify(localStorage)"); left != "{}" {
		t.Errorf("the browser still has %s", left)
	}
	ann.register("ann")
	for _, one := range []*page{ann, ben, root} {
		one.wantQuiet("401 (Unauthorized)", "403 (Forbidden)", "404 (Not Found)", "409 (Conflict)", "WebSocket connection to")
	}
}

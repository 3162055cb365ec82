package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/grpcchatter/grpcchatter/pb"
)

// What the page shows is right also when an answer comes later than what is done next.
func TestPageLateAnswers(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	home := "http://" + p.addr + "/"
	ann := b.open("ann", home)
	ann.register("ann")
	link := ann.createRoom("Tea", "room")
	code := codeOf(link)
	path := "/rooms/" + code
	api := pb.NewGRPCChatterClient(p.connect())
	ben, carla := joinRoom(t, api, p.login("ben"), code), p.login("carla")

	// Who is here was asked for before ben came, and is answered after.
	ann.awaitText("#present-list", "ann")
	ann.do(chromedp.Navigate(home + "#")) // no room
	ann.awaitText("#no-room", "No room is open")
	release, _ := ann.hold("GET", path+"/users")
	ann.do(chromedp.Navigate(link))
	ann.await("window.held")
	d := openDevice(t, api, ben, 0)
	d.say(t, "1", "I am here")
	ann.awaitText("#messages", "I am here")
	release()
	ann.awaitText("#present-list", "ben")

	// The members were asked for before carla was one, and again when she was.
	release, _ = ann.hold("GET", path+"/members")
	ann.click("#settings")
	ann.await("window.held")
	ann.click("#settings-dialog [value=cancel]")
	joinRoom(t, api, carla, code)
	ann.click("#settings")
	ann.awaitText("#members", "carla")
	release()
	if text := eval[string](ann, "document.querySelector('#members').innerText"); !strings.Contains(text, "carla") {
		t.Errorf("an older answer has taken carla away: %q", text)
	}

	// The list of rooms was asked for before the room got another name.
	release, _ = ann.hold("GET", "/rooms")
	eval[bool](ann, `dispatchEvent(new Event("offline"))`)
	ann.await("window.held")
	ann.click("#rename")
	ann.clear("#ask-name")
	ann.fill("#ask-name", "Coffee")
	ann.click("#ask-confirm")
	ann.awaitText("#settings-title", "Coffee")
	release()
	ann.await("!document.querySelector('#ask-dialog').open")
	if name := eval[string](ann, "document.querySelector('#room-name').textContent + document.querySelector('#settings-title').textContent"); name != "CoffeeCoffee" {
		t.Errorf("an older answer has taken the name back: %q", name)
	}
	// Its owner is another one while the dialog is open.
	p.must(200, "", "PATCH", path, p.login("ann"), `{"owner":"carla"}`)
	eval[bool](ann, `dispatchEvent(new Event("offline"))`)
	ann.await("document.querySelector('#room-changes').hidden && !document.querySelector('#leave-room').hidden")
	p.must(200, "", "PATCH", path, carla, `{"owner":"ann"}`)
	eval[bool](ann, `dispatchEvent(new Event("offline"))`)
	ann.await("!document.querySelector('#room-changes').hidden")
	ann.click("#settings-dialog [value=cancel]")

	// A list that does not have the room comes before the session tells why: there is something better to say then.
	eval[bool](ann, `((fetch) => {
		window.fetch = async (url, options) => {
			if (options.method !== "GET" || url !== "/rooms") return fetch(url, options);
			window.fetch = fetch;
			return Response.json({ rooms: [] });
		};
		dispatchEvent(new Event("offline"));
		return true;
	})(window.fetch)`)
	d.say(t, "2", "and still here")
	ann.awaitText("#messages", "and still here")
	if text := eval[string](ann, "document.querySelector('#notice').innerText"); text != "" {
		t.Errorf("the page says %q", text)
	}

	// A question is given up while its answer is under way, and asked again.
	release, _ = ann.hold("POST", "/rooms")
	ann.click("#create-room")
	ann.fill("#create-name", "Slow")
	ann.click("#create-dialog button.main")
	ann.await("window.held")
	ann.click("#create-dialog [value=cancel]")
	ann.createRoom("Quick", "")
	release()
	ann.awaitText("#room-list", "Slow")
	ann.awaitText("#room-name", "Quick")

	// An invitation is opened, left, and opened again, before it is answered.
	dora := b.open("dora", home)
	dora.register("dora")
	release, _ = dora.hold("POST", path+"/join")
	dora.do(chromedp.Navigate(link))
	dora.await("window.held")
	dora.do(chromedp.Navigate(home+"#"), chromedp.Navigate(link))
	dora.fill("#join-password", "room")
	release()
	dora.click("#join-dialog button.main")
	dora.awaitText("#room-name", "Coffee")

	// Who was removed while the answer to the own way in was lost does not come back by itself, though it could.
	dora.click("#log-out")
	dora.awaitText("h1", "Log in")
	_, lose := dora.hold("POST", path+"/join")
	dora.logIn("dora")
	dora.await("window.held")
	p.must(200, "", "DELETE", path+"/members/dora", p.login("ann"), "")
	p.must(200, "", "PATCH", path, p.login("ann"), `{"room_password":""}`)
	lose()
	dora.awaitText("#notice", "no longer a member")
	if names := column(p.must(200, "", "GET", path+"/members", carla, ""), "members", "user_name"); slices.Contains(names, "dora") {
		t.Errorf("the members are %q", names)
	}

	// Who logs in sees nothing of what was shown before, also while the list of rooms is still to come.
	ann.click("#log-out")
	ann.awaitText("h1", "Log in")
	release, _ = ann.hold("GET", "/rooms")
	ann.logIn("ann")
	ann.await("window.held && !document.querySelector('#chat').hidden")
	if eval[bool](ann, "document.querySelector('#room').checkVisibility()") {
		t.Error("the room of before is shown")
	}
	release()

	// The first message comes while an empty room is looked for some.
	ann.createRoom("Empty", "")
	empty := eval[string](ann, "document.querySelector('#room-code').innerText")
	ann.do(chromedp.Navigate(link))
	ann.awaitText("#room-name", "Coffee")
	ann.do(chromedp.Reload())
	ann.awaitText("#room-name", "Coffee")
	release, _ = ann.hold("GET", "/rooms/"+empty+"/messages?before_seq=0&limit=60")
	ann.do(chromedp.Navigate(home + "#" + empty))
	ann.await("window.held")
	p.sayIn(empty, p.must(200, "", "POST", "/rooms/"+empty+"/join", carla, "{}").json["token"].(string), "the first")
	ann.awaitText("#announcer", "the first")
	release()
	ann.awaitText("#messages", "the first")

	// The room is to be deleted, which does not get through, and the list is loaded twice meanwhile: no room was deleted.
	ann.do(chromedp.Navigate(link))
	ann.awaitText("#room-name", "Coffee")
	ann.awaitText("#present-list", "ann")
	eval[bool](ann, `((fetch) => {
		window.fetch = (url, options) => {
			if (options.method !== "DELETE") return fetch(url, options);
			window.fetch = fetch;
			return new Promise((answer, fail) => (window.giveUp = () => fail(new TypeError("lost"))));
		};
		return true;
	})(window.fetch)`)
	ann.click("#delete-room")
	ann.click("#ask-confirm")
	ann.await("window.giveUp")
	for range 2 {
		release, _ = ann.hold("GET", "/rooms")
		eval[bool](ann, `dispatchEvent(new Event("offline"))`)
		release()
	}
	eval[bool](ann, "window.giveUp() || true")
	ann.awaitText("#ask-dialog .error", "cannot be reached")
	ann.awaitText("#room-list", "Coffee")
	ann.click("#ask-dialog [value=cancel]")

	// It is deleted, its session tells so, and the answer is lost.
	_, lose = ann.hold("DELETE", path)
	ann.click("#delete-room")
	ann.click("#ask-confirm")
	ann.await("!document.querySelector('#room-list').innerText.includes('Coffee')")
	lose()
	ann.await("!document.querySelector('#ask-dialog').open")
	ann.awaitText("#no-room", "No room is open")
	ann.wantQuiet("403 (Forbidden)") // the bans, when she was no owner any more
	dora.wantQuiet("403 (Forbidden)", "404 (Not Found)")
}

// An answer that was lost is made up for: who registers again gets in, unless the name is somebody else's, and the dialog
// of a room loads what it could not. "This user name is taken" was said of the own one.
func TestPageAnswersLost(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	home := "http://" + p.addr + "/"
	submit := func(one *page, name string) {
		t.Helper()
		one.clear("#user-name")
		one.fill("#user-name", name)
		one.clear("#password")
		one.fill("#password", testPassword)
		one.click("#sign-in-submit")
	}
	var ann *page
	for i, path := range []string{"/register", "/login"} {
		one := b.open("somebody", home)
		one.click("#switch-mode")
		_, lose := one.hold("POST", path)
		name := fmt.Sprintf("ann%d", i)
		submit(one, name)
		one.await("window.held")
		lose()
		one.awaitText("#sign-in-error", "cannot be reached")
		submit(one, name)
		one.awaitText("#no-room", "No room is open")
		one.wantQuiet("409 (Conflict)")
		ann = one
	}
	carla := b.open("carla", home)
	carla.click("#switch-mode")
	submit(carla, "ann1")
	carla.awaitText("#sign-in-error", "taken")
	p.must(200, "", "POST", "/register", "", credentialsJSON("ben", "another password"))
	_, lose := carla.hold("POST", "/register")
	submit(carla, "ben") // for all that the page knows, it could be carla's then
	carla.await("window.held")
	lose()
	carla.awaitText("#sign-in-error", "cannot be reached")
	submit(carla, "ben")
	carla.awaitText("#sign-in-error", "taken")

	ann.createRoom("Alpha", "")
	p.kill()
	ann.click("#settings")
	ann.awaitText("#settings-dialog .error", "cannot be reached")
	p.start()
	ann.awaitText("#members", "ann1")
	ann.await("document.querySelector('#settings-dialog .error').innerText === ''")
}

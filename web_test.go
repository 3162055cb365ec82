package main

import (
	"database/sql"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/grpcchatter/grpcchatter/pb"
)

// What a browser loads before it shows anything is less than 60 KB, and all of it is cached.
func TestPageIsSmall(t *testing.T) {
	p := startServer(t)
	all, err := assets()
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	later := []string{"/admin.js", "/account.js"} // dialogs that are seldom opened
	for _, a := range all {
		if a.path == "/openapi.json" || slices.Contains(later, a.path) {
			continue
		}
		req, err := http.NewRequest("GET", "http://"+p.addr+strings.TrimSuffix(a.path, "{$}"), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept-Encoding", "gzip")
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.Header.Get("Content-Encoding") != "gzip" || resp.Header.Get("ETag") == "" {
			t.Errorf("%s: %s %v", a.path, resp.Status, resp.Header)
		}
		size += int(resp.ContentLength) + 500 // about what headers take
	}
	t.Logf("the page is %d bytes", size)
	if size > 60_000 {
		t.Errorf("the page is %d bytes", size)
	}
	// Every module is asked for at once, and not when the one that imports it has come: but for what few need.
	index, err := webFiles.ReadFile("web/index.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if strings.HasSuffix(a.path, ".js") && !slices.Contains(later, a.path) && !strings.Contains(string(index), `"`+a.path+`"`) {
			t.Errorf("index.html does not name %s", a.path)
		}
	}
}

// Two people, from the first visit to the end of their room.
func TestPage(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	home := "http://" + p.addr + "/"

	ann := b.open("ann", home)
	ann.awaitText("h1", "Log in")
	ann.shot("1 first visit")
	ann.register("ann")
	ann.shot("2 no room yet")
	link := ann.createRoom("Tea time", "earl grey")
	code := codeOf(link)
	if link != home+"#"+code || len(code) < 4 {
		t.Fatalf("the invitation is %q", link)
	}

	ben := b.open("ben", link)
	ben.register("ben")
	ben.fill("#join-password", "wrong")
	ben.click("#join-dialog button.main")
	ben.awaitText("#join-dialog .error", "password")
	ben.clear("#join-password")
	ben.fill("#join-password", "earl grey")
	ben.shot("3 invited")
	// Another invitation takes the first one's place, and Escape leads back to the rooms.
	ben.do(chromedp.Navigate(home + "#NOROOM"))
	ben.awaitText("#join-title", "NOROOM")
	ben.await("document.querySelector('#join-dialog').open && location.hash === '#NOROOM'")
	ben.do(chromedp.Navigate(link))
	ben.awaitText("#join-title", code)
	ben.fill("#join-password", "earl grey")
	ben.click("#join-dialog button.main")
	ben.awaitText("#room-name", "Tea time")
	ann.awaitText("#present-list", "ben")

	// They chat, and see who types. It is told where a session is open, and is seen for a few seconds.
	ben.awaitText("#present-list", "ann")
	ann.watchTyping()
	ben.fill("#message", "He")
	ann.awaitTyping("ben")
	ann.shot("4 ben types")
	ben.fill("#message", "llo Ann")
	ben.pressEnter()
	ann.awaitText("#messages", "Hello Ann")
	ben.await("document.querySelector('#messages > li[data-state=sent]')")
	ann.say("Hello Ben! Earl Grey or Assam?")
	ben.awaitText("#messages", "Assam?")
	ben.say("Assam, please. And I bring scones.")
	ann.awaitText("#messages", "scones")

	// Somebody by gRPC is one of them.
	api := pb.NewGRPCChatterClient(p.connect())
	carla := p.login("carla")
	joined, err := api.JoinChatRoom(withToken(t.Context(), carla), &pb.JoinChatRoomRequest{ShortCode: code, RoomPassword: "earl grey"})
	if err != nil {
		t.Fatal(err)
	}
	d := openDevice(t, api, joined.GetToken(), 0)
	d.say(t, "c1", "I come by gRPC")
	ann.awaitText("#messages", "I come by gRPC")
	ann.awaitText("#present-list", "carla")
	ben.say("We see you, Carla")
	eventually(t, patience, "carla gets what ben says", func() bool {
		return slices.ContainsFunc(d.messages(), func(e *pb.ChatEvent) bool { return e.GetBody() == "We see you, Carla" })
	})
	ann.say("Then it is tea for three at four. The place: https://example.org/tea-room")
	time.Sleep(typingPause) // the server passes no more of it on
	ann.watchTyping()
	ben.fill("#message", "See you")
	ann.awaitTyping("ben")
	ann.shot("5 three people")
	ben.clear("#message")

	// Markup stays text, several lines are one message, and links are links.
	const hostile = "<img src=x onerror=document.body.remove()> <script>document.body.remove()</script>"
	ann.say(hostile)
	ben.awaitText("#messages", hostile)
	ann.fill("#message", "see https://example.org/a?b=c,")
	ann.pressEnter(chromedp.ModifierShift)
	ann.fill("#message", "javascript:alert(1)")
	ann.pressEnter()
	ben.awaitText("#messages", "see https://example.org/a?b=c,\njavascript:alert(1)")
	if n := eval[int](ben, "document.querySelectorAll('#messages img, #messages script').length"); n != 0 {
		t.Error("a message became markup")
	}
	if links := eval[[]string](ben, "[...document.querySelectorAll('#messages a')].map((a) => a.href + ' ' + a.rel + ' ' + a.target)"); !slices.Equal(links, []string{
		"https://example.org/tea-room noopener noreferrer _blank", "https://example.org/a?b=c noopener noreferrer _blank"}) {
		t.Errorf("the links are %q", links)
	}

	d.leave()
	ann.await("!document.querySelector('#present-list').innerText.includes('carla')")

	// The server is killed, and both write meanwhile.
	p.kill()
	ann.await("document.querySelector('#banner').innerText !== ''")
	ann.say("while it was away, ann")
	ben.say("while it was away, ben")
	ann.awaitText("#messages li[data-state=pending]", "while it was away, ann")
	ann.shot("6 the server is away")
	p.start()
	for _, one := range []*page{ann, ben} {
		one.awaitText("#messages", "while it was away, ann")
		one.awaitText("#messages", "while it was away, ben")
		one.await("!document.querySelector('#messages li[data-state=pending]')")
	}
	ann.await("document.querySelector('#banner').innerText === ''")
	ann.say("and back")
	ben.awaitText("#messages", "and back")
	if a, b := ann.messages(), ben.messages(); !slices.Equal(a, b) {
		t.Errorf("ann sees %q, ben %q", a, b)
	}
	db := p.openReadOnly()
	var stored []string
	for _, m := range storedIn(t, db)[code] {
		stored = append(stored, m.Body)
	}
	if seen := ann.messages(); !slices.Equal(seen, stored) {
		t.Errorf("ann sees %q, stored is %q", seen, stored)
	}

	// A server that has gone silent, which no browser tells of, is noticed too: here at a hint, else by the next poll.
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eval[bool](ann, `dispatchEvent(new Event("offline"))`)
	ann.await("document.querySelector('#banner').innerText !== ''")
	ann.say("Is anybody there?")
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	ben.awaitText("#messages", "Is anybody there?")
	ann.await("document.querySelector('#banner').innerText === ''")

	// Half a character, as a clipboard may hold, does not stop what comes after it.
	eval[bool](ann, `((e) => { e.value = "half \ud83d"; e.form.requestSubmit(); return true; })(document.querySelector("#message"))`)
	ben.awaitText("#messages", "half \uFFFD")

	// A draft, and who one is, survive a reload.
	ann.fill("#message", "a draft")
	ann.do(chromedp.Reload())
	ann.awaitText("#messages", "and back")
	ann.await("document.querySelector('#message').value === 'a draft'")

	// Unread messages of another room.
	ben.createRoom("Work", "")
	ann.clear("#message")
	ann.say("Ben?")
	ann.say("Ben!")
	ben.await("[...document.querySelectorAll('#room-list li')].some((li) => li.innerText.includes('Tea time') && li.innerText.includes('2'))")
	ben.await("document.title.includes('2')")
	ben.shot("7 unread")
	ben.dark(true)
	ben.shot("8 dark")
	ben.do(chromedp.EmulateViewport(360, 740, chromedp.EmulateMobile))
	ben.shot("9 phone, dark")
	ben.dark(false)
	ben.shot("10 phone, light")
	if wide := eval[int](ben, "document.documentElement.scrollWidth"); wide > 360 {
		t.Errorf("the page is %d px wide in a window of 360", wide)
	}
	ben.do(chromedp.Navigate(link))
	ben.awaitText("#messages", "Ben!")
	ben.shot("11 phone, room")
	ben.do(chromedp.EmulateViewport(1600, 1000))
	ben.shot("12 wide")

	// The owner deletes the room, after a question.
	ann.click("#delete-room")
	ann.awaitText("#ask-dialog", "Tea time")
	ann.shot("13 a question")
	ann.confirm()
	ben.awaitText("#notice", "deleted")
	ben.shot("14 room deleted")
	ann.await("!document.querySelector('#room-list').innerText.includes('Tea time')")

	// Logged out, nothing is left.
	ann.click("#log-out")
	ann.awaitText("h1", "Log in")
	if left := eval[string](ann, "JSON.stringify(localStorage)"); strings.Contains(left, "eyJ") {
		t.Errorf("after logging out the browser has %s", left)
	}
	// The answers that people get to see, and the time without a server.
	expected := []string{"403 (Forbidden) (" + home + "rooms/", "404 (Not Found) (" + home + "rooms/", "net::ERR_", "WebSocket connection to"}
	ann.wantQuiet(expected...)
	ben.wantQuiet(expected...)
}

// watchTyping begins to note what the page tells of who types.
func (p *page) watchTyping() {
	p.t.Helper()
	eval[bool](p, `((typing) => {
		window.typed = [typing.textContent];
		new MutationObserver(() => window.typed.push(typing.textContent)).observe(typing, { childList: true });
		return true;
	})(document.querySelector("#typing"))`)
}

// awaitTyping waits until the page has told since watchTyping that somebody types.
func (p *page) awaitTyping(name string) {
	p.t.Helper()
	p.await(fmt.Sprintf("window.typed.some((text) => text.includes(%q))", name))
}

// 1,000 messages are scrolled through from the end to the beginning: each is met once, what is seen stays where it is,
// and the document stays small.
func TestPageHistory(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	const n = 1000
	ann := b.open("ann", "http://"+p.addr+"/")
	ann.register("ann")
	link := ann.createRoom("Archive", "room")
	code := codeOf(link)
	api := pb.NewGRPCChatterClient(p.connect())
	d := openDevice(t, api, joinRoom(t, api, p.login("dora"), code), 0)
	for i := range n {
		d.say(t, fmt.Sprint(i), fmt.Sprintf("number %d %s", i+1, strings.Repeat("and a few words ", i%40)))
	}
	ann.awaitText("#messages", fmt.Sprintf("number %d", n))
	ann.await("Math.abs(timeline.scrollHeight - timeline.clientHeight - timeline.scrollTop) < 8") // the end follows what comes in

	// Scrolled in steps, as a wheel does.
	met := map[int]bool{}
	for steps := 0; !met[1]; steps++ {
		if steps > 2000 {
			ann.shot("failed")
			t.Fatalf("the beginning does not come: %d of %d met", len(met), n)
		}
		rows := eval[[]int](ann, "[...document.querySelectorAll('#messages > li')].map((li) => Number(li.dataset.seq))")
		if len(rows) > 200 {
			t.Fatalf("%d messages are in the document", len(rows))
		}
		for i, seq := range rows {
			met[seq] = true
			if i > 0 && seq != rows[i-1]+1 {
				t.Fatalf("%d stands after %d", seq, rows[i-1])
			}
		}
		// The first message that is seen must be where it was, but for the step, once everything has settled.
		const step = 400
		jump := eval[float64](ann, fmt.Sprintf(`(async () => {
			const frames = async (n) => { for (; n; n--) await new Promise(requestAnimationFrame); };
			const seen = () => [...document.querySelectorAll("#messages > li")].find((li) => li.getBoundingClientRect().top >= timeline.getBoundingClientRect().top);
			timeline.scrollTop -= %d;
			await frames(2);
			const li = seen();
			if (!li) return 0;
			const before = li.getBoundingClientRect().top;
			await new Promise((done) => setTimeout(done, 60));
			await frames(2);
			return li.isConnected && timeline.scrollTop > 0 ? Math.abs(li.getBoundingClientRect().top - before) : 0;
		})()`, step), chromedp.EvalAwaitPromise)
		if jump > 2 {
			t.Errorf("at step %d the view jumped by %.0f px", steps, jump)
		}
	}
	for seq := 1; seq <= n; seq++ {
		if !met[seq] {
			t.Errorf("message %d was never seen", seq)
		}
	}
	ann.shot("the beginning")

	// What comes meanwhile does not move the reader, and a button leads back.
	d.say(t, "late", "a late message")
	ann.awaitText("#jump", "1")
	ann.shot("new messages below")
	ann.click("#jump")
	ann.awaitText("#messages", "a late message")
	ann.wantQuiet()
}

// A room of 100,000 messages opens at its end, and is scrolled up, in a document that stays small.
func TestPageLargeRoom(t *testing.T) {
	t.Parallel()
	p := startWatched(t)
	b := startBrowser(t)
	ann := b.open("ann", "http://"+p.addr+"/")
	ann.register("ann")
	ann.createRoom("Large", "")
	ann.say("first")
	ann.await("document.querySelector('#messages > li[data-state=sent]')")
	p.stop()
	db, err := sql.Open("sqlite", "file:"+p.database())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`INSERT INTO messages (room_id, seq, user_id, sent_at, body)
		WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
		SELECT 1, i, 1, 1700000000000000 + i * 60000000, 'message ' || i FROM n`); err != nil {
		t.Fatal(err)
	}
	p.start()
	ben := b.open("ben", "http://"+p.addr+"/")
	ben.register("ben")
	ben.click("#join-room")
	ben.fill("#join-code", eval[string](ann, "document.querySelector('#room-code').innerText"))
	ben.click("#join-dialog button.main")
	ben.awaitText("#messages", "message 100000")
	ben.do(chromedp.EmulateViewport(1280, 800))
	for _, seq := range []int{99_900, 99_500, 99_000, 98_500} { // more than are kept in memory
		ben.await(fmt.Sprintf("(timeline.scrollTop = 0, Number(document.querySelector('#messages > li')?.dataset.seq) < %d)", seq))
	}
	if nodes := eval[int](ben, "document.querySelectorAll('*').length"); nodes > 3000 {
		t.Errorf("the document has %d elements", nodes)
	}
	ben.wantQuiet()
}

// Who comes back with a token that has expired is told so, in plain words, and goes on after logging in, whatever others
// have guessed.
func TestPageTokenExpires(t *testing.T) {
	t.Parallel()
	p := startServer(t, "--secret", testSecret, "--rate-limits=on", "--limit-logins-per-account-and-address=1+1/1h")
	b := startBrowser(t)
	ann := b.open("ann", "http://"+p.addr+"/")
	ann.register("ann")
	ann.createRoom("Short", "")
	for _, status := range []int{401, 429} {
		if a := p.call("POST", "/login", "", credentialsJSON("ann", "a wrong password")); a.status != status {
			t.Errorf("a guess: %d %v, want %d", a.status, a.json, status)
		}
	}
	old := tokenMaker(t, testSecret)
	old.now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	expired, err := old.userToken(user{ID: 1})
	if err != nil {
		t.Fatal(err)
	}
	eval[bool](ann, fmt.Sprintf(`(() => {
		for (const [key, value] of Object.entries(localStorage)) localStorage[key] = value.replace(/eyJ[\w.-]+/, %q);
		return true;
	})()`, expired))
	ann.do(chromedp.Reload())
	ann.awaitText("#sign-in-reason", "run out")
	ann.shot("token expired")
	ann.logIn("ann")
	ann.awaitText("#room-list", "Short")
	ann.wantQuiet("401 (Unauthorized)")
}

// After a restore the page shows what the server has, and not what it knew of what is lost: other messages have those
// seqs now.
func TestPageAfterRestore(t *testing.T) {
	t.Parallel()
	b := startBrowser(t)
	s := startServer(t)
	p := b.open("ann", "http://"+s.addr+"/")
	p.register("ann")
	_, code, _ := strings.Cut(p.createRoom("Tea", "room"), "#")
	api := pb.NewGRPCChatterClient(s.connect())
	ben := s.login("ben")
	joinRoom(t, api, ben, code)
	p.say("one")
	readSeq := fmt.Sprintf(`localStorage["grpcchatter.read/ann/%s"]`, code) // of what is stored: others are sent again
	p.await(readSeq + ` === "1"`)
	file := filepath.Join(t.TempDir(), "backup")
	mustRun(t, s.dir, "", "backup", file)
	for _, lost := range []string{"two", "three"} {
		p.say(lost)
	}
	p.await(readSeq + ` === "3"`)
	s.kill()
	s.restoreHere(file)
	s.start()
	token := joinRoom(t, api, ben, code)
	if a := s.call("POST", "/rooms/"+code+"/messages", token, `{"body":"anew"}`); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	shows := func(want ...string) func() bool {
		return func() bool { return slices.Equal(p.messages(), want) }
	}
	eventually(t, patience, "what the server has", shows("one", "anew"))
	p.say("mine")
	eventually(t, patience, "a message of the page", shows("one", "anew", "mine"))

	// A page that is opened only afterwards has read none of what is to come.
	p.await(readSeq + ` === "3"`)
	p.do(chromedp.Navigate("about:blank"))
	s.restored(file)
	p.do(chromedp.Navigate("http://" + s.addr + "/"))
	eventually(t, patience, "what the server has", shows("one"))
	p.await(readSeq + ` === "1"`)
}

// Who writes faster than the server allows is told so; the page waits, comes back, and sends the rest once, in order.
func TestPageRateLimited(t *testing.T) {
	t.Parallel()
	b := startBrowser(t)
	p, metrics := startMeasured(t, "--rate-limits=on", "--limit-messages-per-user=1+1/3s")
	ann := b.open("ann", "http://"+p.addr+"/")
	ann.register("ann")
	ann.createRoom("Tea", "")
	began := time.Now()
	said := []string{"message 0", "message 1", "message 2"} // at once, however slow a keyboard is
	eval[bool](ann, `((e) => {
		for (let i = 0; i < 3; i++) {
			e.value = "message " + i;
			e.form.requestSubmit();
		}
		return true;
	})(document.querySelector("#message"))`)
	ann.awaitText("#chat", "faster than the server allows")
	eventually(t, 2*patience, "all are sent", func() bool {
		return eval[int](ann, "document.querySelectorAll('#messages > li[data-state=sent]').length") == 3
	})
	if got := ann.messages(); !slices.Equal(got, said) {
		t.Errorf("the page shows %q", got)
	}
	took := time.Since(began)
	got, _ := scrape(t, metrics)
	if n := got.value("grpcchatter_sessions_opened_total"); n < 2 || n > 2+took.Seconds()/2 { // it waits for 2 s each time
		t.Errorf("%v sessions in %s", n, took)
	}
	if n := got.value("grpcchatter_messages_stored_total"); n != 3 {
		t.Errorf("%v messages are stored", n)
	}
	ann.wantQuiet()
}

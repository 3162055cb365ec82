package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
)

// browser is a running Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context
}

// startBrowser starts a Chromium, or skips the test where there is none.
func startBrowser(t *testing.T) *browser {
	t.Helper()
	onlySQLite(t) // the page does not know the database
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("Chromium is not installed")
		}
		t.Skip("SKIPPED: Chromium is not installed: the browser page is not tested")
	}
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, // its folder is its own, for its processes may outlive it, and write there
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))...)
	t.Cleanup(cancel)
	ctx, _ := chromedp.NewContext(alloc)
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) })
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return &browser{t, ctx}
}

// page is a tab of somebody with a profile of their own.
type page struct {
	t    *testing.T
	ctx  context.Context
	name string
	log  func() []string // what the console says
}

// open opens an address as somebody new.
func (b *browser) open(name, url string) *page {
	b.t.Helper()
	return newTab(b.t, b.ctx, name, url, chromedp.WithNewBrowserContext())
}

// openTab opens an address in one more tab of the same person.
func (p *page) openTab(url string) *page {
	p.t.Helper()
	return newTab(p.t, p.ctx, p.name+"'s other tab", url)
}

func newTab(t *testing.T, parent context.Context, name, url string, opts ...chromedp.ContextOption) *page {
	t.Helper()
	ctx, cancel := chromedp.NewContext(parent, opts...)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // the tab lives as long as the first context that it is used with
		t.Fatal(err)
	}
	p := &page{t: t, ctx: ctx, name: name}
	p.do(chromedp.EmulateViewport(1280, 800))
	messages := make(chan string, 10_000)
	console := chromedp.Console(ctx)
	go func() { // until the tab is closed
		for m, err := range console {
			if err != nil {
				return
			}
			messages <- fmt.Sprintf("%s: %s (%s)", m.Type, m.Text, m.URL)
		}
	}()
	p.log = func() (lines []string) {
		for {
			select {
			case line := <-messages:
				lines = append(lines, line)
			default:
				return lines
			}
		}
	}
	p.do(chromedp.Navigate(url))
	return p
}

const pagePatience = 2 * patience // a Chromium may be late by half of that

func (p *page) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, pagePatience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		p.shot("failed")
		p.t.Fatalf("%s: %v", p.name, err)
	}
}

// eval returns the value of a JavaScript expression.
func eval[T any](p *page, expression string, opts ...chromedp.EvaluateOption) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, pagePatience)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, opts...))
	var protocol *cdproto.Error
	for errors.As(err, &protocol) && ctx.Err() == nil { // it loads itself anew: there is nothing that could evaluate it
		time.Sleep(30 * time.Millisecond)
		v, err = chromedp.Run(ctx, chromedp.Evaluate[T](expression, opts...))
	}
	if err != nil {
		p.t.Fatalf("%s: %s: %v", p.name, expression, err)
	}
	return v
}

// await waits until a JavaScript expression is true.
func (p *page) await(expression string) {
	p.t.Helper()
	for end := time.Now().Add(pagePatience); !eval[bool](p, "Boolean("+expression+")"); time.Sleep(30 * time.Millisecond) {
		if time.Now().After(end) {
			p.shot("failed")
			p.t.Fatalf("%s: not within %s: %s\nthe page says:\n%s", p.name, pagePatience, expression, eval[string](p, "document.body.innerText"))
		}
	}
}

// awaitText waits until an element is seen that has a text.
func (p *page) awaitText(selector, text string) {
	p.t.Helper()
	p.await(fmt.Sprintf("[...document.querySelectorAll(%q)].some((e) => e.checkVisibility() && e.innerText.includes(%q))", selector, text))
}

// click clicks an element once nothing lies on it, such as a dialog that waits for its answer, and again if an answer that has
// come meanwhile has moved it away from under the mouse.
func (p *page) click(selector string) {
	p.t.Helper()
	for range 5 {
		p.await(fmt.Sprintf(`((e) => {
			if (!e?.checkVisibility()) return false;
			e.scrollIntoView({ block: "nearest" });
			const { x, y, width, height } = e.getBoundingClientRect();
			if (!e.contains(document.elementFromPoint(x + width / 2, y + height / 2))) return false;
			window.clicked = false;
			e.addEventListener("click", () => (window.clicked = true), { capture: true, once: true });
			return true;
		})(document.querySelector(%q))`, selector))
		p.do(chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
		if eval[bool](p, "window.clicked !== false") { // another document has none
			return
		}
	}
	p.t.Fatalf("%s: clicks do not hit %s", p.name, selector)
}

// fill types into a field.
func (p *page) fill(selector, text string) {
	p.t.Helper()
	p.do(chromedp.SendKeys(chromedp.CSS(selector), text, chromedp.NodeVisible))
}

// clear empties a field.
func (p *page) clear(selector string) {
	p.t.Helper()
	eval[bool](p, fmt.Sprintf("((e) => { e.select(); return document.execCommand('delete'); })(document.querySelector(%q))", selector))
}

// pressEnter presses Enter in the element that has the focus.
func (p *page) pressEnter(modifiers ...chromedp.Modifier) {
	p.t.Helper()
	p.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		for _, typ := range []input.DispatchKeyEventType{input.DispatchKeyEventTypeKeyDown, input.DispatchKeyEventTypeKeyUp} {
			params := input.DispatchKeyEventParams{Type: typ, Key: "Enter", Code: "Enter", Text: "\r", WindowsVirtualKeyCode: 13, NativeVirtualKeyCode: 13}
			for _, m := range modifiers {
				params.Modifiers |= int64(m)
			}
			if _, err := cdp.Call(ctx, t, input.DispatchKeyEvent, params); err != nil {
				return err
			}
		}
		return nil
	}))
}

// say writes a message and sends it with Enter.
func (p *page) say(text string) {
	p.t.Helper()
	p.fill("#message", text)
	p.pressEnter()
}

// dark sets what the system prefers.
func (p *page) dark(on bool) {
	p.t.Helper()
	value := "light"
	if on {
		value = "dark"
	}
	if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}},
	}); err != nil {
		p.t.Fatal(err)
	}
}

// shot keeps a picture of the page where `go test -artifacts` puts it.
func (p *page) shot(what string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, pagePatience)
	defer cancel()
	// A colour that is changing is none of the design's.
	_, err := chromedp.Run(ctx, chromedp.Evaluate[int]("Promise.allSettled(document.getAnimations().map((a) => a.finished)).then((all) => all.length)", chromedp.EvalAwaitPromise))
	if err != nil {
		p.t.Errorf("a picture of %q: %v", what, err)
		return
	}
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(p.t.ArtifactDir(), p.name+" "+what+".png"), png, 0o600)
	}
	if err != nil {
		p.t.Errorf("a picture of %q: %v", what, err)
	}
}

// register makes an account in the page, and waits for the list of its rooms.
func (p *page) register(name string) {
	p.t.Helper()
	p.click("#switch-mode")
	p.logIn(name)
	p.await("!document.querySelector('#chat').hidden && ['no-room', 'room'].some((id) => !document.getElementById(id).hidden)")
}

// logIn sends the form of a name and its password.
func (p *page) logIn(name string) {
	p.t.Helper()
	p.fill("#user-name", name)
	p.fill("#password", testPassword)
	p.click("#sign-in-submit")
}

// createRoom makes a room in the page, and returns the link that invites to it.
func (p *page) createRoom(name, password string) string {
	p.t.Helper()
	p.click("#create-room")
	p.fill("#create-name", name)
	if password != "" {
		p.fill("#create-password", password)
	}
	p.click("#create-dialog button.main")
	p.awaitText("#room-name", name)
	p.click("#invite")
	link := eval[string](p, "document.querySelector('#invite-link').value")
	p.click("#close-invite")
	return link
}

// hold keeps the answer to the page's next call of that kind back, which the server has given: until release, or for good if
// lose is called.
func (p *page) hold(method, path string) (release, lose func()) {
	p.t.Helper()
	eval[bool](p, fmt.Sprintf(`((method, path) => {
		const { fetch } = window;
		let hold = true;
		const opened = new Promise((open, fail) => Object.assign(window, { release: open, lose: () => fail(new TypeError("lost")) }));
		window.held = false;
		window.fetch = async (url, options) => {
			const mine = hold && options.method === method && url === path;
			if (mine) hold = false;
			const response = await fetch(url, { ...options, signal: undefined });
			if (mine) {
				window.held = true;
				await opened;
			}
			return response;
		};
		return true;
	})(%q, %q)`, method, path))
	then := func(what string) func() {
		return func() {
			p.t.Helper()
			p.await("window.held")
			// What the page does with it is done when this returns.
			eval[bool](p, "window."+what+"(); new Promise((done) => setTimeout(() => done(true), 200))", chromedp.EvalAwaitPromise)
		}
	}
	return then("release"), then("lose")
}

// codeOf is the code in an invitation.
func codeOf(link string) string { return link[strings.LastIndex(link, "#")+1:] }

// messages are the texts of those on the page.
func (p *page) messages() []string {
	p.t.Helper()
	return eval[[]string](p, "[...document.querySelectorAll('#messages > li .body')].map((e) => e.innerText)")
}

// wantQuiet fails for what the console says, but for lines with one of the expected texts.
func (p *page) wantQuiet(expected ...string) {
	p.t.Helper()
next:
	for _, line := range p.log() {
		for _, text := range expected {
			if strings.Contains(line, text) {
				continue next
			}
		}
		p.t.Errorf("%s: the console says %s", p.name, line)
	}
}

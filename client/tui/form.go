package tui

import (
	"cmp"
	"context"
	"errors"
	"net"
	"regexp"
	"strings"

	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"

	"github.com/grpcchatter/grpcchatter/client"
)

// defaultServer is the address that an empty one stands for: where a server listens unless it is told otherwise.
const defaultServer = "http://localhost:8080"

// userName is what a server takes for a new one.
var userName = regexp.MustCompile(`^[A-Za-z0-9_.-]{2,32}$`)

// form is what signs in: the server, the account, and a room.
type form struct {
	a        *app
	server   textinput.Model
	register bool
	name     textinput.Model
	password textinput.Model
	again    textinput.Model
	room     textinput.Model
	stay     bool
	token    savedToken // of the last time, to be used in the place of a password

	at      place
	touched bool   // a key was pressed
	asking  bool   // the server has been asked
	stop    func() // ends that
	tries   int    // how often it has been
	problem string // what went wrong
}

// place is a line of the form.
type place int

const (
	placeServer place = iota
	placeAccount
	placeName
	placePassword
	placeAgain
	placeRoom
	placeStay
	places
)

// newField is a line to type in. What is hidden is shown as stars.
func newField(hidden bool) textinput.Model {
	f := textinput.New()
	f.Prompt = ""
	f.SetVirtualCursor(false)
	plain := textinput.StyleState{Placeholder: lipgloss.NewStyle().Faint(true)}
	f.SetStyles(textinput.Styles{Focused: plain, Blurred: plain})
	f.KeyMap.Paste.Unbind() // the terminal pastes
	if hidden {
		f.EchoMode = textinput.EchoPassword
	}
	f.Focus()
	return f
}

// pasteInto pastes a text into a field, without the line breaks at its end.
func pasteInto(f *textinput.Model, text string) {
	*f, _ = f.Update(tea.PasteMsg{Content: strings.TrimRight(text, "\r\n")})
}

// newForm is the form with what is known already: from the flags, or from the last time.
func newForm(a *app) *form {
	f := &form{a: a, server: newField(false), name: newField(false), password: newField(true), again: newField(true), room: newField(false)}
	f.server.SetValue(cmp.Or(a.o.Server, a.memory.Server))
	f.server.Placeholder = defaultServer
	f.name.SetValue(a.o.User)
	if a.o.User == "" && sameServer(f.server.Value(), a.memory.Server) {
		f.name.SetValue(a.memory.User)
	}
	f.password.SetValue(a.o.Password)
	f.again.SetValue(a.o.Password)
	f.room.SetValue(a.o.Room)
	f.room.Placeholder = "the code of one to enter, if you have it"
	f.register = a.o.Register
	f.token = a.memory.token
	f.stay = f.ofToken()
	f.at = min(f.next(), placeStay)
	return f
}

// signInAtOnce signs in without a question if nothing is missing: by a password that was given, or by the token of the
// last time.
func (a *app) signInAtOnce() {
	f := a.form
	if a.o.User == "" && a.o.Password == "" && f.token.Token != "" && (a.o.Server == "" || sameServer(a.o.Server, f.token.Server)) {
		f.server.SetValue(f.token.Server)
		f.name.SetValue(f.token.User)
		f.stay = true
	}
	if f.server.Value() != "" && f.next() == places {
		f.submit()
	}
}

// byToken reports whether the token of the last time can take the place of a password.
func (f *form) byToken() bool {
	return !f.register && f.password.Value() == "" && f.ofToken()
}

// ofToken reports whether the token of the last time is of this server and user.
func (f *form) ofToken() bool { return f.token.of(f.server.Value(), f.name.Value()) }

// field is the line to type in at a place, or nil.
func (f *form) field(at place) *textinput.Model {
	switch at {
	case placeServer:
		return &f.server
	case placeName:
		return &f.name
	case placePassword:
		return &f.password
	case placeAgain:
		return &f.again
	case placeRoom:
		return &f.room
	}
	return nil
}

// next is the first place where something is missing; or places.
func (f *form) next() place {
	for _, at := range []place{placeName, placePassword, placeAgain} {
		switch {
		case f.field(at).Value() != "", at == placeAgain && !f.register, at == placePassword && f.byToken():
		default:
			return at
		}
	}
	return places
}

// move goes n places down.
func (f *form) move(n int) {
	f.takeLink()
	for {
		f.at = (f.at + place(n) + places) % places
		if (f.at != placeAgain || f.register) && (f.at != placeStay || f.a.memory.folder != "") {
			return
		}
	}
}

func (f *form) press(msg tea.KeyPressMsg) {
	if f.asking {
		if msg.String() == "esc" && !f.register { // what registers may be done already
			f.stop()
			f.asking, f.touched = false, true
			f.tries++
		}
		return
	}
	f.touched = true
	switch key := msg.String(); {
	case key == "tab", key == "down":
		f.move(1)
	case key == "shift+tab", key == "up":
		f.move(-1)
	case key == "enter":
		f.enter()
	case key == "ctrl+d":
		f.a.quit()
	case f.at == placeAccount && (key == "space" || key == "left" || key == "right"):
		f.register = !f.register
	case f.at == placeAccount && (key == "l" || key == "r"):
		f.register = key == "r"
	case f.at == placeStay && (key == "space" || key == "left" || key == "right"):
		f.stay = !f.stay
	case f.at == placeStay && (key == "y" || key == "n"):
		f.stay = key == "y"
	default:
		if field := f.field(f.at); field != nil {
			*field, _ = field.Update(msg)
		}
	}
}

func (f *form) paste(text string) {
	f.touched = true
	if field := f.field(f.at); field != nil && !f.asking {
		pasteInto(field, text)
	}
}

// takeLink puts the parts of an invitation link in their places.
func (f *form) takeLink() {
	if server, code, ok := invitation(f.server.Value()); ok {
		f.server.SetValue(server)
		f.room.SetValue(cmp.Or(code, f.room.Value()))
	}
	if server, code, ok := invitation(f.room.Value()); ok {
		f.room.SetValue(code)
		f.server.SetValue(cmp.Or(f.server.Value(), server))
	}
}

// enter goes on: to what is missing behind this place, or, when nothing is, to the server.
func (f *form) enter() {
	f.takeLink()
	switch {
	case f.next() != places:
		f.at = f.next()
	case f.at == placeAccount:
		f.move(1)
	default:
		f.submit()
	}
}

func (f *form) submit() {
	if f.register && f.password.Value() != f.again.Value() {
		f.problem = "The two passwords differ."
		f.again.SetValue("")
		f.at = placeAgain
		return
	}
	if f.byToken() {
		token := f.token.Token
		f.signIn(func(ctx context.Context, c *client.Client) error {
			_, err := c.LoginWithToken(ctx, token)
			return err
		})
		return
	}
	name, password, register := strings.TrimSpace(f.name.Value()), f.password.Value(), f.register
	f.signIn(func(ctx context.Context, c *client.Client) error {
		if register {
			if _, err := c.Register(ctx, name, password); err != nil {
				return err
			}
			a := f.a
			a.feed.post(func() { f.register = false }) // should the log-in fail, there is an account already
		}
		return c.Login(ctx, name, password)
	})
}

// signIn makes a client for the server, and logs in.
func (f *form) signIn(logIn func(context.Context, *client.Client) error) {
	a := f.a
	server := fullAddress(cmp.Or(strings.TrimSpace(f.server.Value()), defaultServer))
	c, err := client.New(server)
	if err != nil {
		f.problem, f.at = notice(err), placeServer
		return
	}
	ctx, stop := context.WithCancel(a.ctx)
	f.asking, f.stop, f.touched, f.problem = true, stop, false, ""
	f.tries++
	try := f.tries
	a.call(func(context.Context, *client.Client) error {
		defer stop()
		err := logIn(ctx, c)
		if err != nil {
			c.Disconnect()
		}
		return err
	}, func(err error) {
		if f.tries != try { // it was stopped
			if err == nil {
				a.others.Go(func() { c.Disconnect() })
			}
			return
		}
		f.asking = false
		if err != nil {
			f.failed(err)
			return
		}
		if !strings.EqualFold(a.user, c.UserName()) { // what somebody else has written
			a.input = newComposer()
			a.fit()
			a.lobby = newRoom("", "", "", 0)
			a.here = a.lobby
		}
		a.c, a.server, a.user, a.stay = c, server, c.UserName(), f.stay
		a.o.Room = strings.TrimSpace(f.room.Value())
		a.form = nil
		if !f.stay && f.ofToken() {
			a.unforgotten = a.forget(a.server, a.user)
		}
		a.begin()
	})
}

// failed shows what went wrong, at the place where it can be mended.
func (f *form) failed(err error) {
	f.problem = notice(err)
	switch {
	case errors.Is(err, client.ErrInvalidCredentials):
		f.at = placePassword
		f.password.SetValue("")
		f.again.SetValue("")
	case errors.Is(err, client.ErrTokenExpired), errors.Is(err, client.ErrTokenInvalid):
		f.problem += unforgotten(f.a.forget(f.token.Server, f.token.User))
		f.token, f.at = savedToken{}, placePassword
	case errors.Is(err, client.ErrInvalidField) && userName.MatchString(strings.TrimSpace(f.name.Value())): // it is not the name
		f.at = placePassword
		f.password.SetValue("")
		f.again.SetValue("")
	case errors.Is(err, client.ErrNameTaken), errors.Is(err, client.ErrInvalidField):
		f.at = placeName
	case errors.Is(err, client.ErrRegistrationClosed):
		f.register, f.at = false, placeAccount
	case f.byToken(): // nothing has to be typed when the server is back
		f.a.later(pauseAfter(err), func() {
			if f.a.form == f && !f.touched && !f.asking {
				f.submit()
			}
		})
		fallthrough
	case unreachable(err):
		f.at = placeServer
	}
}

func sameServer(a, b string) bool { return fullAddress(a) == fullAddress(b) }

// fullAddress is a server's address as others can use it. One without a port is the name of a server that has a certificate.
func fullAddress(server string) string {
	server = strings.TrimRight(strings.TrimSpace(server), "/")
	if strings.Contains(server, "://") || server == "" {
		return server
	}
	if _, _, err := net.SplitHostPort(server); err != nil && !strings.ContainsAny(server, "/@") {
		return "https://" + server
	}
	return "http://" + server
}

// invitation takes an invitation link apart, such as https://chat.example.com/#K7P2QX, if it is one.
func invitation(link string) (server, code string, ok bool) {
	i := strings.LastIndex(link, "#")
	if i < 0 {
		return "", "", false
	}
	return strings.TrimRight(strings.TrimSpace(link[:i]), "/"), strings.TrimSpace(link[i+1:]), true
}

// view draws the form in a column in the middle of the screen.
func (f *form) view(width, height int) ([]string, *tea.Cursor) {
	t := &f.a.theme
	mark := func(on bool, text string) string {
		if on {
			return "(•) " + text
		}
		return "( ) " + text
	}
	const label = 12
	wide := max(10, min(width-2, 64))
	var rows []string
	var cursor *tea.Cursor
	line := func(at place, name, value string) {
		style := t.faint
		if f.at == at && !f.asking {
			style = t.bold
		}
		rows = append(rows, style.Render(pad(name, label))+value)
	}
	input := func(at place, name string) {
		field := f.field(at)
		field.SetWidth(wide - label - 1)
		if f.at == at && !f.asking {
			if cursor = field.Cursor(); cursor != nil {
				cursor.X += label
				cursor.Y = len(rows)
			}
		}
		line(at, name, harmless(field.View()))
	}
	rows = append(rows, t.bold.Render("GRPCChatter"), "")
	input(placeServer, "Server")
	line(placeAccount, "Account", mark(!f.register, "log in")+"   "+mark(f.register, "register"))
	input(placeName, "Name")
	input(placePassword, "Password")
	if f.register {
		input(placeAgain, "Once more")
	}
	input(placeRoom, "Room")
	answer := "[ ] no"
	if f.stay {
		answer = "[x] yes"
	}
	if f.a.memory.folder != "" {
		line(placeStay, "Stay", "logged in here? "+answer)
	}
	say := func(style lipgloss.Style, text string) {
		for row := range strings.SplitSeq(cells.Wrap(text, wide, ""), "\n") {
			rows = append(rows, style.Render(row))
		}
	}
	rows = append(rows, "")
	switch {
	case f.asking && f.register:
		say(t.faint, "Asking the server …")
	case f.asking:
		say(t.faint, "Asking the server … Esc stops that.")
	case f.problem != "":
		say(t.alert, f.problem)
	case f.at == placeStay:
		say(t.faint, "Yes keeps a token in "+f.a.memory.tokenPath()+", for you alone to read: never the password. Whoever has it is you, until it expires or you /logout.")
	case f.at == placeAccount:
		say(t.faint, "Space changes it.")
	default:
		say(t.faint, "Enter goes on, Tab and the arrows move, Ctrl-C leaves.")
	}
	if over := len(rows) - height; over > 0 { // too low for all: the line that is typed in, and what is said
		from := 0
		if cursor != nil {
			from = max(0, min(cursor.Y-height/2, over))
			cursor.Y -= from
		} else if f.at > placePassword {
			from = over
		}
		rows = rows[from : from+height]
	}
	left, top := max(0, (width-wide)/2), max(0, (height-len(rows))/2)
	if cursor != nil {
		cursor.X += left
		cursor.Y += top
	}
	all := make([]string, top, top+len(rows))
	for _, row := range rows {
		all = append(all, strings.Repeat(" ", left)+row)
	}
	return all, cursor
}

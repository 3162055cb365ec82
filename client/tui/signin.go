package tui

import (
	"context"
	"errors"
	"strings"

	"github.com/grpcchatter/grpcchatter/client"
)

// defaultServer is the address that Enter stands for: where a server listens unless it is told otherwise.
const defaultServer = "http://localhost:8080"

// runScreen chats on a terminal.
func runScreen(ctx context.Context, o Options, s *screen) error {
	c, err := signIn(ctx, o, s)
	if err != nil {
		return err
	}
	defer c.Disconnect()
	ch := newChat(s, c)
	defer ch.leave()
	if err := ch.enter(ctx, o); err != nil {
		return err
	}
	return ch.run(ctx)
}

// signIn returns a client that is logged in. A server that was asked for is asked for again when there is
// none at that address.
func signIn(ctx context.Context, o Options, s *screen) (*client.Client, error) {
	for {
		addr := o.Server
		if addr == "" {
			var err error
			if addr, err = s.ask(ctx, "Server ["+defaultServer+"]: "); err != nil {
				return nil, err
			}
			if addr == "" {
				addr = defaultServer
			}
		}
		c, err := client.New(addr)
		if err == nil {
			if err = logIn(ctx, o, s, c); err == nil {
				return c, nil
			}
			c.Disconnect()
		}
		if o.Server != "" || errors.Is(err, errLeave) {
			return nil, err
		}
		s.note("%s", notice(err))
	}
}

// account is what a login needs.
type account struct {
	name, password string
	register       bool // make it first
}

// logIn logs in, making the account before if that is wanted. What the server does not take is asked for
// again; it returns without success only when the server could not be reached, or with errLeave.
func logIn(ctx context.Context, o Options, s *screen, c *client.Client) error {
	a := account{o.User, o.Password, o.Register}
	choose := a.name == "" && !a.register
	for {
		if err := a.complete(ctx, s, choose); err != nil {
			return err
		}
		err := s.wait(ctx, func(ctx context.Context) error {
			if a.register {
				if _, err := c.Register(ctx, a.name, a.password); err != nil {
					return err
				}
				a.register = false
			}
			return c.Login(ctx, a.name, a.password)
		})
		if err == nil || errors.Is(err, errLeave) || unreachable(err) {
			return err
		}
		s.note("%s", notice(err))
		choose, a.password = true, ""
	}
}

// complete asks for what a lacks. With choose, all of it is asked for; the name that it has stands for
// Enter.
func (a *account) complete(ctx context.Context, s *screen, choose bool) error {
	if choose {
		if err := a.choose(ctx, s); err != nil {
			return err
		}
	}
	for choose || a.name == "" {
		question := "Name: "
		if a.name != "" {
			question = "Name [" + a.name + "]: "
		}
		name, err := s.ask(ctx, question)
		if err != nil {
			return err
		}
		if name != "" {
			a.name = name
		}
		if a.name != "" {
			break
		}
	}
	for a.password == "" {
		password, err := s.askSecret(ctx, "Password: ")
		if err != nil {
			return err
		}
		if a.register && password != "" {
			again, err := s.askSecret(ctx, "Password again: ")
			if err != nil {
				return err
			}
			if again != password {
				s.note("The two passwords differ.")
				continue
			}
		}
		a.password = password
	}
	return nil
}

// choose asks whether there is an account already. Enter stands for what a says.
func (a *account) choose(ctx context.Context, s *screen) error {
	initial := "l"
	if a.register {
		initial = "r"
	}
	for {
		answer, err := s.ask(ctx, "Account: [l]og in or [r]egister ["+initial+"]: ")
		if err != nil {
			return err
		}
		switch answer = strings.ToLower(answer); {
		case answer == "":
			return nil
		case strings.HasPrefix("login", answer), strings.HasPrefix("log in", answer):
			a.register = false
			return nil
		case strings.HasPrefix("register", answer):
			a.register = true
			return nil
		}
		s.note("Please answer l or r.")
	}
}

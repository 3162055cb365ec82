package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"
)

// userCommand looks after accounts, in the database that the server has. What it changes holds at once: the
// account's tokens stop working and its streams end.
type userCommand struct {
	Add     userAdd     `cmd:"" help:"Create an account. The password is asked for, or read as a line from a pipe."`
	List    userList    `cmd:"" help:"List all accounts."`
	Role    userRole    `cmd:"" help:"Give an account another role."`
	Passwd  userPasswd  `cmd:"" help:"Give an account another password, asked for or read as a line from a pipe."`
	Disable userDisable `cmd:"" help:"Lock an account out."`
	Enable  userEnable  `cmd:"" help:"Let a disabled account in again."`
}

// change applies fn to an account. As by REST, what is so already stays, with its tokens: then fn returns nothing for the audit log.
func (d dataSettings) change(ctx context.Context, name string, fn func(*user) []auditEntry) error {
	return d.withStore(ctx, storeOptions{}, func(st *store) error {
		_, err := st.changeUser(ctx, user{}, name, func(u *user) ([]auditEntry, error) { return fn(u), nil })
		if errors.Is(err, errNotFound) {
			return fmt.Errorf("there is no account %q", name)
		}
		return err
	})
}

type userAdd struct {
	dataSettings
	Name string `arg:"" help:"The user name."`
	Role string `default:"USER" placeholder:"USER|ADMIN" help:"The role."`
}

func (c *userAdd) Run(ctx context.Context, std stdio) error {
	role, err := readRole(c.Role)
	if err != nil {
		return err
	}
	if err := checkUserName(c.Name); err != nil {
		return err
	}
	password, err := readNewPassword(ctx, std, c.Name)
	if err != nil {
		return err
	}
	return c.withStore(ctx, storeOptions{Create: true}, func(st *store) error {
		u, err := st.addUser(ctx, c.Name, hashPassword(password), role, auditEntry{auditUserCreated, c.Name, role})
		if errors.Is(err, errConflict) {
			return fmt.Errorf("the user name %q is taken", c.Name)
		} else if err != nil {
			return err
		}
		_, err = fmt.Fprintf(std.out, "%s is account %d, with the role %s.\n", u.Name, u.ID, u.Role)
		return err
	})
}

type userList struct{ dataSettings }

func (c *userList) Run(ctx context.Context, std stdio) error {
	return c.withStore(ctx, storeOptions{ReadOnly: true}, func(st *store) error {
		users, err := st.allUsers(ctx)
		if err != nil {
			return err
		}
		w := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tNAME\tROLE\tSTATE\tCREATED")
		for _, u := range users {
			state := "enabled"
			switch {
			case u.Deleted:
				state = "deleted"
			case u.Disabled:
				state = "disabled"
			}
			name := u.Name
			if strings.ContainsFunc(name, unicode.IsControl) { // the original allowed that
				name = strconv.Quote(name)
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", u.ID, name, u.Role, state, u.CreatedAt.UTC().Format(time.RFC3339))
		}
		return w.Flush()
	})
}

type userRole struct {
	dataSettings
	Name string `arg:"" help:"The user name."`
	Role string `arg:"" help:"USER or ADMIN."`
}

func (c *userRole) Run(ctx context.Context, std stdio) error {
	role, err := readRole(c.Role)
	if err != nil {
		return err
	}
	err = c.change(ctx, c.Name, func(u *user) []auditEntry { return u.setRole(role) })
	return say(err, std, "%s has the role %s now.", c.Name, role)
}

type userPasswd struct {
	dataSettings
	Name string `arg:"" help:"The user name."`
}

func (c *userPasswd) Run(ctx context.Context, std stdio) error {
	password, err := readNewPassword(ctx, std, c.Name)
	if err != nil {
		return err
	}
	hash := hashPassword(password)
	err = c.change(ctx, c.Name, func(u *user) []auditEntry {
		u.Hash = hash
		return []auditEntry{{auditUserPassword, u.Name, ""}}
	})
	return say(err, std, "%s has a new password.", c.Name)
}

type userDisable struct {
	dataSettings
	Name string `arg:"" help:"The user name."`
}

func (c *userDisable) Run(ctx context.Context, std stdio) error {
	err := c.change(ctx, c.Name, func(u *user) []auditEntry { return u.setDisabled(true) })
	return say(err, std, "%s is disabled.", c.Name)
}

type userEnable struct {
	dataSettings
	Name string `arg:"" help:"The user name."`
}

func (c *userEnable) Run(ctx context.Context, std stdio) error {
	err := c.change(ctx, c.Name, func(u *user) []auditEntry { return u.setDisabled(false) })
	return say(err, std, "%s is enabled.", c.Name)
}

func readRole(s string) (string, error) {
	switch role := strings.ToUpper(s); role {
	case roleUser, roleAdmin:
		return role, nil
	}
	return "", fmt.Errorf("want the role %s or %s, not %q", roleUser, roleAdmin, s)
}

// readNewPassword asks for a password on a terminal, twice and unseen, or reads a line.
func readNewPassword(ctx context.Context, std stdio, name string) (password string, err error) {
	if f, ok := std.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		password, err = askPassword(ctx, f, std.err, "Password: ")
		if err != nil {
			return "", err
		}
		again, err := askPassword(ctx, f, std.err, "Again: ")
		if err != nil {
			return "", err
		}
		if again != password {
			return "", errors.New("the two passwords differ")
		}
	} else {
		password, err = interruptibly(ctx, func() (string, error) { return bufio.NewReader(std.in).ReadString('\n') })
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		password = strings.TrimRight(password, "\r\n")
	}
	return password, checkNewPassword(name, password)
}

func askPassword(ctx context.Context, f *os.File, out io.Writer, prompt string) (password string, err error) {
	before, err := term.GetState(int(f.Fd()))
	if err != nil {
		return "", err
	}
	fmt.Fprint(out, prompt)
	password, err = interruptibly(ctx, func() (string, error) {
		b, err := term.ReadPassword(int(f.Fd()))
		return string(b), err
	})
	if ctx.Err() != nil {
		_ = term.Restore(int(f.Fd()), before) // shows again what is typed
	}
	fmt.Fprintln(out)
	return password, err
}

// interruptibly calls read, and does not wait for it when ctx ends: a read from a terminal or a pipe cannot be
// called off.
func interruptibly(ctx context.Context, read func() (string, error)) (string, error) {
	type result struct {
		text string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := read()
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return "", errors.New("interrupted")
	}
}

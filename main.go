// Command grpcchatter is a chat server, its terminal client, and the commands to look after it.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/grpcchatter/grpcchatter/client/tui"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // ends with the program
		<-signals
		signal.Stop(signals) // before anything else ends: a second signal ends the program at once
		stop()
	}()
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, tui.ErrOutputClosed): // as after `| head`: there is nobody to tell
		os.Exit(1)
	case err != nil:
		fmt.Fprintln(os.Stderr, "grpcchatter:", err)
		os.Exit(1)
	}
}

// commands are the program's commands and flags.
type commands struct {
	Serve   serveCommand   `cmd:"" default:"withargs" help:"Run the server. This is what grpcchatter does without a command."`
	Chat    chatCommand    `cmd:"" help:"Chat in the terminal."`
	User    userCommand    `cmd:"" help:"Look after accounts, beside a running server."`
	Backup  backupCommand  `cmd:"" help:"Write a backup of all data into a new file, beside a running server."`
	Restore restoreCommand `cmd:"" help:"Put a backup in the place of the data."`
	Export  exportCommand  `cmd:"" help:"Print messages as lines of JSON, beside a running server."`
	Migrate migrateCommand `cmd:"" help:"Copy all data from one database to another, such as from SQLite to PostgreSQL."`
	Health  healthCommand  `cmd:"" help:"Ask a server whether it is ready: the exit status is 0 if it is, and else 1."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

// stdio is the standard streams.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// run is the program: it ends with ctx, or when its command is done.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) error {
	kctx, _, err := parse(args, out, errOut)
	if kctx == nil {
		return err
	}
	kctx.BindTo(ctx, (*context.Context)(nil))
	return kctx.Run(stdio{in, out, errOut}, rereader(func() (*serveCommand, error) {
		_, cmds, err := parse(args, io.Discard, io.Discard)
		return &cmds.Serve, err
	}))
}

// parse reads the command line, the environment and the --config file. It returns no context if there is nothing to
// run: after an error, or --help.
func parse(args []string, out, errOut io.Writer) (*kong.Context, *commands, error) {
	var cmds commands
	exited := false
	var parser *kong.Kong
	parser, err := kong.New(&cmds,
		kong.Name("grpcchatter"),
		kong.Description("A chat server in one binary: accounts over REST, rooms and live messages over gRPC."),
		kong.Writers(out, errOut),
		kong.Exit(func(int) { exited = true }), // only main exits
		kong.ValueFormatter(helpOf),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Resolvers(resolver(nil)),
		kong.Configuration(func(r io.Reader) (kong.Resolver, error) { return configFile(r, keysOf(parser.Model)) }),
	)
	if err != nil {
		return nil, &cmds, err
	}
	kctx, err := parser.Parse(args)
	if exited {
		return nil, &cmds, nil
	}
	if err != nil {
		return nil, &cmds, fmt.Errorf("%w (grpcchatter --help shows what there is)", err)
	}
	return kctx, &cmds, nil
}

// helpOf is what --help says of a flag: its default too, which kong leaves out where there is a placeholder.
func helpOf(value *kong.Value) string {
	v := *value
	if v.Default != "" {
		v.Help += " Default: " + v.Default + "."
	}
	return kong.DefaultHelpValueFormatter(&v)
}

// keysOf lists the configuration keys of the commands that take a --config file.
func keysOf(app *kong.Application) (keys []string) {
	for _, cmd := range app.Leaves(false) {
		var names, envs []string
		for _, flag := range slices.Concat(cmd.AllFlags(false)...) {
			names = append(names, flag.Name)
			envs = append(envs, flag.Envs...)
		}
		if slices.Contains(names, "config") {
			keys = append(keys, envs...)
		}
	}
	return keys
}

// withStore opens the database beside a server, for fn, and closes it. Of o the URL is d's.
func (d dataSettings) withStore(ctx context.Context, o storeOptions, fn func(*store) error) error {
	if err := d.check(); err != nil {
		return err
	}
	o.URL = d.DatabaseURL
	st, err := openStore(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(fn(st), st.close())
}

// say prints a line if err is nil, and returns err.
func say(err error, std stdio, format string, args ...any) error {
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(std.out, format+"\n", args...)
	return err
}

// changedError is one after which the target is not what it was, or perhaps not.
type changedError struct{ error }

func (e changedError) Unwrap() error { return e.error }

// interrupted takes the place of an error that comes of the end of ctx, and says what is so because of that.
func interrupted(ctx context.Context, err error, so string) error {
	var changed changedError
	if err == nil || ctx.Err() == nil || errors.As(err, &changed) {
		return err
	}
	return errors.New("interrupted: " + so)
}

type serveCommand struct {
	dataSettings
	settings
}

func (c *serveCommand) Run(ctx context.Context, std stdio, reread rereader) error {
	hangups, stop := watchHangups(std.in)
	defer stop()
	cfg, err := c.check()
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	level.Set(cfg.LogLevel)
	options := &slog.HandlerOptions{Level: level}
	var handler slog.Handler = slog.NewTextHandler(std.err, options)
	if cfg.LogJSON {
		handler = slog.NewJSONHandler(std.err, options)
	}
	s, err := newServer(ctx, cfg, c.DatabaseURL, slog.New(requestLog{handler}))
	if err != nil {
		return err
	}
	s.notifySocket = os.Getenv("NOTIFY_SOCKET")
	ctx, cancel := context.WithCancel(ctx)
	var reloading sync.WaitGroup
	reloading.Go(func() {
		if hangups.serve(ctx, func() { s.reload(c, reread, level) }) {
			cancel()
		}
	})
	err = s.run(ctx, std.out)
	cancel()
	reloading.Wait()
	return err
}

func (c *serveCommand) check() (config, error) {
	if err := c.dataSettings.check(); err != nil {
		return config{}, err
	}
	return c.settings.check()
}

type chatCommand struct {
	Server       string `env:"GRPCCHATTER_SERVER" placeholder:"URL" help:"The server, such as http://localhost:8080."`
	User         string `env:"GRPCCHATTER_USER" placeholder:"NAME" help:"The account."`
	Password     string `env:"GRPCCHATTER_PASSWORD" placeholder:"TEXT" help:"Its password. Others on this machine can see a flag: the variable is safer."`
	Room         string `env:"GRPCCHATTER_ROOM" placeholder:"CODE" help:"The room's short code, or an invitation link to it."`
	RoomPassword string `env:"GRPCCHATTER_ROOM_PASSWORD" placeholder:"TEXT" help:"The room's password."`
	Register     bool   `help:"Create the account first."`
	Create       string `placeholder:"NAME" help:"Create a room of this name, print its short code, and join it."`
	Plain        bool   `help:"Lines in are messages, lines out are 'time name: text', even on a terminal."`
	Notify       string `env:"GRPCCHATTER_NOTIFY" enum:",bell,osc9" default:"" placeholder:"HOW" help:"On a mention: bell rings, osc9 has the terminal show a notification."`
}

func (chatCommand) Help() string { return tui.Help }

func (c *chatCommand) Run(ctx context.Context, std stdio) error {
	folder, err := os.UserConfigDir()
	if err == nil {
		folder = filepath.Join(folder, "grpcchatter")
	}
	return tui.Run(ctx, tui.Options{
		Server: c.Server, User: c.User, Password: c.Password, Room: c.Room, RoomPassword: c.RoomPassword,
		Register: c.Register, Create: c.Create, Plain: c.Plain, Notify: c.Notify, Folder: folder, In: std.in, Out: std.out, Err: std.err,
	})
}

type versionCommand struct{}

func (versionCommand) Run(std stdio) error {
	b := readBuild()
	_, err := fmt.Fprintf(std.out, "grpcchatter %s, commit %s, %s, %s\n", b.version, b.commit, b.goVersion, b.platform)
	return err
}

// build is what a binary was built of: "unknown" where it does not say so.
type build struct {
	version   string
	commit    string // with "+" behind it: and changes that were not committed
	goVersion string
	platform  string // such as linux/amd64
}

func readBuild() build {
	b := build{"unknown", "unknown", runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.version = cmp.Or(info.Main.Version, b.version)
	changed := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.commit = s.Value[:min(len(s.Value), 12)]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+"
		}
	}
	b.commit += changed
	return b
}

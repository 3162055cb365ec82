package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/joho/godotenv"
)

// settings are the configuration as it comes: each key as flag, environment variable or line of the --config
// file. They are texts, so that every error can name the key, and an empty one means the default.
type settings struct {
	ListenAddr               string `env:"LISTEN_ADDR" default:"127.0.0.1:8080" placeholder:"HOST:PORT,…" help:"Addresses to listen on, by comma; each speaks REST and gRPC."`
	Secret                   string `env:"SECRET" placeholder:"TEXT" help:"Key that signs tokens, at least 32 bytes. Default: generated at the first start and kept in the database."`
	SecretFile               string `env:"SECRET_FILE" placeholder:"PATH" help:"File that holds the SECRET instead."`
	TokenDuration            string `env:"TOKEN_DURATION" default:"24h" placeholder:"DURATION" help:"How long tokens are valid, such as 10m or 24h."`
	ShortCodeLength          string `env:"SHORT_CODE_LENGTH" default:"6" placeholder:"N" help:"Characters of a room's short code, 4 to 32."`
	MaxMessageQueueSize      string `env:"MAX_MESSAGE_QUEUE_SIZE" default:"255" placeholder:"N" help:"Events that a room keeps in memory for live delivery, at least; who is further behind reads from the database."`
	MaxMessageSize           string `env:"MAX_MESSAGE_SIZE" default:"4096" placeholder:"BYTES" help:"Size of a message, at most."`
	TLSCert                  string `name:"tls-cert" env:"TLS_CERT" placeholder:"PATH" help:"Certificate with its chain, in PEM: the server speaks TLS. Read again when the file changes."`
	TLSKey                   string `name:"tls-key" env:"TLS_KEY" placeholder:"PATH" help:"Its private key, in PEM."`
	AutocertDomain           string `env:"AUTOCERT_DOMAIN" placeholder:"NAME,…" help:"Names of this server, by comma: it gets certificates for them by itself (ACME) and speaks TLS."`
	AutocertEmail            string `env:"AUTOCERT_EMAIL" placeholder:"ADDRESS" help:"Where the certificate authority may write to."`
	AutocertDirectory        string `env:"AUTOCERT_DIRECTORY" placeholder:"URL" help:"ACME directory of the certificate authority. Default: Let's Encrypt's."`
	AutocertHTTPAddr         string `name:"autocert-http-addr" env:"AUTOCERT_HTTP_ADDR" placeholder:"HOST:PORT|off" help:"Address without TLS for the authority's challenges, and to send browsers to https. Default: :80."`
	TrustedProxies           string `env:"TRUSTED_PROXIES" placeholder:"ADDRESS,…" help:"Addresses and networks of proxies, by comma, whose X-Forwarded-For and X-Forwarded-Proto are believed."`
	MaxConnections           string `env:"MAX_CONNECTIONS" placeholder:"N" help:"Connections in all. Default: 20000, or fewer if the process may not have the descriptors."`
	MaxConnectionsPerAddress string `env:"MAX_CONNECTIONS_PER_ADDRESS" default:"1000" placeholder:"N" help:"Connections from one IPv4 address or one IPv6 network of 64 bits; of TRUSTED_PROXIES and with RATE_LIMITS=off, any number."`
	MaxStreams               string `name:"max-streams-per-connection" env:"MAX_STREAMS_PER_CONNECTION" default:"1000" placeholder:"N" help:"gRPC streams and calls that a connection may have at a time."`
	HandshakeTimeout         string `env:"HANDSHAKE_TIMEOUT" default:"4s" placeholder:"DURATION" help:"How long a new connection may take for TLS and to show what it speaks."`
	HeaderTimeout            string `env:"HEADER_TIMEOUT" default:"10s" placeholder:"DURATION" help:"How long the header of an HTTP request may take to come."`
	RequestTimeout           string `env:"REQUEST_TIMEOUT" default:"20s" placeholder:"DURATION" help:"How long a whole HTTP request may take to come, and then its answer to be made."`
	IdleTimeout              string `env:"IDLE_TIMEOUT" default:"2m" placeholder:"DURATION" help:"How long a connection may be without a request, a call or a stream."`
	MetricsAddr              string `env:"METRICS_ADDR" placeholder:"HOST:PORT" help:"Address of the metrics and profiles, such as 127.0.0.1:9090. Default: none. It must not be open to the internet."`
	MessageRetention         string `env:"MESSAGE_RETENTION" placeholder:"DURATION|N" help:"How old messages are removed: those older than a duration, such as 720h; all but the newest N of a room; or both, by comma. Default: they are kept for ever."`
	Registration             string `env:"REGISTRATION" default:"open" placeholder:"open|closed" help:"Whether anybody may create an account."`
	RateLimits               string `env:"RATE_LIMITS" default:"on" placeholder:"on|off" help:"Whether the limits by address and by user hold."`
	LogLevel                 string `env:"LOG_LEVEL" default:"info" placeholder:"LEVEL" help:"debug, info, warn or error."`
	LogFormat                string `env:"LOG_FORMAT" default:"text" placeholder:"text|json" help:"How the log on stderr is written."`
	SQLiteSynchronous        string `name:"sqlite-synchronous" env:"SQLITE_SYNCHRONOUS" default:"full" placeholder:"full|normal" help:"full: what was acknowledged survives a power failure. normal: it survives a crash of the process."`
	RESTServerAddress        string `name:"rest-server-address" env:"REST_SERVER_ADDRESS" placeholder:"HOST" help:"With REST_SERVER_PORT: one more address to listen on."`
	RESTServerPort           string `name:"rest-server-port" env:"REST_SERVER_PORT" placeholder:"PORT"`
	GRPCServerAddress        string `name:"grpc-server-address" env:"GRPC_SERVER_ADDRESS" placeholder:"HOST" help:"With GRPC_SERVER_PORT: one more address to listen on."`
	GRPCServerPort           string `name:"grpc-server-port" env:"GRPC_SERVER_PORT" placeholder:"PORT"`
	limitSettings
}

// dataSettings are those that commands beside the server need too.
type dataSettings struct {
	Config      kong.ConfigFlag `placeholder:"PATH" help:"File of lines KEY=VALUE; KEY is a name shown after a $ below. The environment and flags come before it."`
	DatabaseURL string          `env:"DATABASE_URL" default:"sqlite:grpcchatter.db" placeholder:"URL" help:"Where the data is: sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE."`
}

func (s dataSettings) check() error {
	if isDatabase(s.DatabaseURL) {
		return nil
	}
	return errors.New("DATABASE_URL: want sqlite:PATH, such as sqlite:grpcchatter.db, or postgres://USER:PASSWORD@HOST:PORT/DATABASE") // without the value: it may hold a password
}

func isDatabase(url string) bool {
	path, ok := strings.CutPrefix(url, "sqlite:")
	return ok && path != "" || isPostgres(url)
}

// config is the configuration, checked.
type config struct {
	Listen           []string
	ListenKeys       map[string]string // of an address that is not LISTEN_ADDR's
	TLSCert, TLSKey  string            // files; empty: no TLS
	MetricsAddr      string            // empty: no metrics
	Synchronous      string            // full or normal
	Secret           string            // empty: to be generated
	TokenDuration    time.Duration
	CodeLength       int
	RingMessages     int
	MaxMessage       int // bytes
	Retention        retention
	RegistrationOpen bool
	RateLimits       bool
	Limits           limits // as RateLimits says, and nothing used of them
	LogLevel         slog.Level
	LogJSON          bool

	Autocert                 autocertConfig
	Proxies                  proxies
	Timeouts                 timeouts
	MaxConnections           int // in all; 0: as many as there are descriptors for
	MaxConnectionsPerAddress int
	MaxStreams               int // a connection
}

// timeouts are those of connections.
type timeouts struct{ Handshake, Header, Request, Idle time.Duration }

// minSecret is the least length of a SECRET in bytes: that of HS256's hash (RFC 7518, 3.2).
const minSecret = 32

const maxTokenDuration = 10 * 365 * 24 * time.Hour

// check returns the configuration, or an error that names every key with a bad value.
func (s settings) check() (c config, err error) {
	var errs []string
	fail := func(format string, args ...any) { errs = append(errs, fmt.Sprintf(format, args...)) }
	bad := func(key, rule string, value string) { fail("%s: %s, not %q", key, rule, value) }
	number := func(key, value string, least, most int) int {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > most {
			bad(key, fmt.Sprintf("want a number from %d to %d", least, most), value)
		}
		return n
	}
	timeout := func(key, value string) time.Duration {
		d, err := time.ParseDuration(value)
		if err != nil || d < 100*time.Millisecond || d > 24*time.Hour {
			bad(key, "want a duration from 100ms to 24h, such as 10s", value)
		}
		return d
	}
	choice := func(key, value string, choices ...string) string {
		v := strings.ToLower(value)
		if !slices.Contains(choices, v) {
			bad(key, "want "+strings.Join(choices, " or "), value)
		}
		return v
	}

	for addr := range strings.SplitSeq(s.ListenAddr, ",") {
		addr = strings.TrimSpace(addr)
		if _, port, err := net.SplitHostPort(addr); err != nil || !isPort(port) {
			bad("LISTEN_ADDR", "want HOST:PORT, several by comma", addr)
		}
		c.Listen = append(c.Listen, addr)
	}
	keys := map[string]string{}
	for _, pair := range []struct{ name, host, port string }{
		{"REST", s.RESTServerAddress, s.RESTServerPort},
		{"GRPC", s.GRPCServerAddress, s.GRPCServerPort},
	} {
		switch {
		case pair.port != "" && !isPort(pair.port):
			bad(pair.name+"_SERVER_PORT", "want a number from 0 to 65535", pair.port)
		case pair.port != "":
			addr := net.JoinHostPort(pair.host, pair.port)
			c.Listen = append(c.Listen, addr)
			keys[addr] = pair.name + "_SERVER_ADDRESS, " + pair.name + "_SERVER_PORT"
		case pair.host != "":
			fail("%s_SERVER_ADDRESS: it is set, but %s_SERVER_PORT is not", pair.name, pair.name)
		}
	}
	c.Listen = withoutCovered(c.Listen)
	c.ListenKeys = keys

	c.Secret = s.Secret
	switch {
	case s.SecretFile != "" && s.Secret != "":
		fail("SECRET_FILE: SECRET is set too; set one of them")
	case s.SecretFile != "":
		if b, err := os.ReadFile(s.SecretFile); err != nil {
			fail("SECRET_FILE: %v", err)
		} else if c.Secret = strings.TrimRight(string(b), "\r\n"); len(c.Secret) < minSecret {
			fail("SECRET_FILE: want at least %d bytes in %s, not %d", minSecret, s.SecretFile, len(c.Secret))
		}
	case s.Secret != "" && len(s.Secret) < minSecret:
		fail("SECRET: want at least %d bytes, not %d", minSecret, len(s.Secret))
	}
	switch {
	case s.TLSCert != "" && s.TLSKey == "":
		fail("TLS_CERT: %q needs its TLS_KEY", s.TLSCert)
	case s.TLSCert == "" && s.TLSKey != "":
		fail("TLS_KEY: %q needs its TLS_CERT", s.TLSKey)
	}
	c.TLSCert, c.TLSKey = s.TLSCert, s.TLSKey
	if c.MetricsAddr = strings.TrimSpace(s.MetricsAddr); c.MetricsAddr != "" {
		if _, port, err := net.SplitHostPort(c.MetricsAddr); err != nil || !isPort(port) {
			bad("METRICS_ADDR", "want HOST:PORT", s.MetricsAddr)
		} else if port != "0" && len(withoutCovered(append(slices.Clone(c.Listen), c.MetricsAddr))) == len(c.Listen) {
			fail("METRICS_ADDR: %s is an address of the chat too; the metrics need one of their own", c.MetricsAddr)
		}
	}
	c.Autocert = s.autocert(c, fail, bad)
	if s.TrustedProxies != "" {
		if c.Proxies, err = parseProxies(s.TrustedProxies); err != nil {
			fail("TRUSTED_PROXIES: want addresses and networks, such as 127.0.0.1 or 10.0.0.0/8, by comma: %v", err)
		}
	}
	if s.MaxConnections != "" {
		c.MaxConnections = number("MAX_CONNECTIONS", s.MaxConnections, 1, 10_000_000)
	}
	c.MaxConnectionsPerAddress = number("MAX_CONNECTIONS_PER_ADDRESS", s.MaxConnectionsPerAddress, 1, 10_000_000)
	c.MaxStreams = number("MAX_STREAMS_PER_CONNECTION", s.MaxStreams, 1, 100_000)
	c.Timeouts = timeouts{
		Handshake: timeout("HANDSHAKE_TIMEOUT", s.HandshakeTimeout), Header: timeout("HEADER_TIMEOUT", s.HeaderTimeout),
		Request: timeout("REQUEST_TIMEOUT", s.RequestTimeout), Idle: timeout("IDLE_TIMEOUT", s.IdleTimeout),
	}
	if c.TokenDuration, err = time.ParseDuration(s.TokenDuration); err != nil || c.TokenDuration < time.Second || c.TokenDuration > maxTokenDuration {
		bad("TOKEN_DURATION", "want a duration from 1s to 87600h (ten years), such as 10m or 24h", s.TokenDuration)
	}
	c.CodeLength = number("SHORT_CODE_LENGTH", s.ShortCodeLength, 4, 32)
	c.RingMessages = number("MAX_MESSAGE_QUEUE_SIZE", s.MaxMessageQueueSize, 1, 1_000_000)
	c.MaxMessage = number("MAX_MESSAGE_SIZE", s.MaxMessageSize, 1, 1<<20)
	if c.Retention, err = readRetention(s.MessageRetention); err != nil {
		bad("MESSAGE_RETENTION", err.Error(), s.MessageRetention)
	}
	c.RegistrationOpen = choice("REGISTRATION", s.Registration, "open", "closed") == "open"
	c.RateLimits = choice("RATE_LIMITS", s.RateLimits, "on", "off") == "on"
	if c.Limits = s.limitSettings.check(bad); !c.RateLimits {
		c.Limits = limits{}
	}
	c.LogJSON = choice("LOG_FORMAT", s.LogFormat, "text", "json") == "json"
	c.Synchronous = choice("SQLITE_SYNCHRONOUS", s.SQLiteSynchronous, "full", "normal")
	_ = c.LogLevel.UnmarshalText([]byte(choice("LOG_LEVEL", s.LogLevel, "debug", "info", "warn", "error"))) // choice has checked it
	if len(errs) > 0 {
		return c, errors.New(strings.Join(errs, "; "))
	}
	return c, nil
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// withoutCovered takes away the addresses that another one covers: its equal, or the same port of all hosts.
// So the original's file, with 0.0.0.0:8080, works beside the default of LISTEN_ADDR.
func withoutCovered(addrs []string) (kept []string) {
	for i, addr := range addrs {
		host, port, _ := net.SplitHostPort(addr)
		covered := false
		for j, other := range addrs {
			h, p, _ := net.SplitHostPort(other)
			if p != port || port == "0" || i == j {
				continue
			}
			covered = covered || loopback(h) == loopback(host) && j < i || isWildcard(h) && (j < i || !isWildcard(host))
		}
		if !covered {
			kept = append(kept, addr)
		}
	}
	return kept
}

// loopback is host, but localhost by its usual number.
func loopback(host string) string {
	if host == "localhost" {
		return "127.0.0.1"
	}
	return host
}

func isWildcard(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// configFile reads a file for --config. keys are the ones that it may have.
func configFile(r io.Reader, keys []string) (kong.Resolver, error) {
	name := "the file"
	if f, ok := r.(interface{ Name() string }); ok {
		name = f.Name()
	}
	text, err := io.ReadAll(r)
	if err != nil { // it is a folder, for one: `--config=` is the one that the program is started in
		return nil, fmt.Errorf("--config: %w", err)
	}
	values, err := godotenv.UnmarshalBytes(text)
	if err != nil { // without it: it repeats what is in the file, which may be a secret
		return nil, fmt.Errorf("--config: %s has a line that is not KEY=VALUE, or a quote that does not end", name)
	}
	for key := range values {
		if !slices.Contains(keys, key) {
			return nil, fmt.Errorf("%s: there is no such key", key)
		}
	}
	return resolver(values), nil
}

// resolver lets the environment come before the values of a file, which kong alone would do the other way
// round, and takes an empty variable for one that is not set.
func resolver(file map[string]string) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		for _, key := range flag.Envs {
			env, set := os.LookupEnv(key)
			switch {
			case env != "":
				return nil, nil // kong has it
			case file[key] != "":
				return file[key], nil
			case set:
				return flag.Default, nil
			}
		}
		return nil, nil
	})
}

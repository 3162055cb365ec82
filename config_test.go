package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
)

// configKeys are the keys of the design's table.
var configKeys = []string{"LISTEN_ADDR", "DATABASE_URL", "SECRET", "SECRET_FILE", "TOKEN_DURATION", "SHORT_CODE_LENGTH", "MAX_MESSAGE_QUEUE_SIZE",
	"MAX_MESSAGE_SIZE", "TLS_CERT", "TLS_KEY", "AUTOCERT_DOMAIN", "AUTOCERT_EMAIL", "AUTOCERT_DIRECTORY", "AUTOCERT_HTTP_ADDR", "TRUSTED_PROXIES",
	"MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_ADDRESS", "MAX_STREAMS_PER_CONNECTION", "HANDSHAKE_TIMEOUT", "HEADER_TIMEOUT", "REQUEST_TIMEOUT", "IDLE_TIMEOUT",
	"METRICS_ADDR", "MESSAGE_RETENTION", "REGISTRATION", "RATE_LIMITS", "LOG_LEVEL", "LOG_FORMAT", "SQLITE_SYNCHRONOUS",
	"REST_SERVER_ADDRESS", "REST_SERVER_PORT", "GRPC_SERVER_ADDRESS", "GRPC_SERVER_PORT",
	"LIMIT_LOGINS_PER_ADDRESS", "LIMIT_LOGINS_PER_ACCOUNT_AND_ADDRESS", "LIMIT_LOGINS_PER_ACCOUNT", "LIMIT_REGISTRATIONS_PER_ADDRESS",
	"LIMIT_ROOM_PASSWORDS_PER_USER_AND_ROOM", "LIMIT_ROOM_PASSWORDS_PER_USER", "LIMIT_ROOM_PASSWORDS_PER_ADDRESS", "LIMIT_ROOMS_PER_USER", "LIMIT_MESSAGES_PER_USER"}

func flagOf(key string) string { return "--" + strings.ReplaceAll(strings.ToLower(key), "_", "-") }

// inFolder gives a test a folder and an environment without any key.
func inFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	for _, key := range configKeys {
		t.Setenv(key, "")
	}
	return dir
}

// serveError runs the program in this process, which has to refuse to start, and returns its error.
func serveError(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience) // for one that starts
	defer cancel()
	var out, errOut bytes.Buffer
	err := run(ctx, append([]string{"serve"}, args...), strings.NewReader(""), &out, &errOut)
	if err == nil {
		t.Errorf("%q with the environment %v: it starts", args, setKeys())
		return ""
	}
	if strings.Contains(err.Error(), "\n") || out.Len() > 0 || errOut.Len() > 0 {
		t.Errorf("%q: want one line and nothing more: %q %q %q", args, err, out.String(), errOut.String())
	}
	return err.Error()
}

func setKeys() (set []string) {
	for _, key := range configKeys {
		if v := os.Getenv(key); v != "" {
			set = append(set, key+"="+v)
		}
	}
	return set
}

// wantFolder checks which files a folder has, but for locks.
func wantFolder(t testing.TB, dir string, want []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), "-lock") {
			got = append(got, e.Name())
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the folder has %v, want %v", got, want)
	}
}

// Every key of the table, and no other, is a flag with an environment variable, and has the default of the
// table (design: "Configuration").
func TestConfigDefaults(t *testing.T) {
	inFolder(t)
	var cmds commands
	parser, err := kong.New(&cmds, kong.Resolvers(resolver(nil)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{"serve"}); err != nil {
		t.Fatal(err)
	}
	got, err := cmds.Serve.settings.check()
	if err != nil {
		t.Fatal(err)
	}
	want := got
	want.Listen, want.Secret, want.TokenDuration = []string{"127.0.0.1:8080"}, "", 24*time.Hour
	want.CodeLength, want.RingMessages, want.MaxMessage = 6, 255, 4096
	want.Timeouts = timeouts{Handshake: 4 * time.Second, Header: 10 * time.Second, Request: 20 * time.Second, Idle: 2 * time.Minute}
	want.Autocert, want.Proxies = autocertConfig{Directory: "https://acme-v02.api.letsencrypt.org/directory", HTTPAddr: ":80"}, nil
	want.MaxConnections, want.MaxConnectionsPerAddress, want.MaxStreams = 0, 1000, 1000
	want.RegistrationOpen, want.RateLimits, want.LogLevel, want.LogJSON, want.Synchronous = true, true, slog.LevelInfo, false, "full"
	if !reflect.DeepEqual(got, want) {
		t.Errorf("defaults: %+v\nwant: %+v", got, want)
	}
	defaults := map[string]string{
		"logins_per_address": "100+1s", "logins_per_account_and_address": "10+10s", "logins_per_account": "50+1m12s", "registrations_per_address": "200+1s",
		"room_passwords_per_user_and_room": "20+10s", "room_passwords_per_user": "100+5s", "room_passwords_per_address": "200+2s", "rooms_per_user": "100+5s", "messages_per_user": "5000+5ms",
	}
	for _, l := range got.Limits.all() {
		if limit := fmt.Sprint(l.burst, "+", l.interval); limit != defaults[l.name] {
			t.Errorf("the default of %s is %s, want %s", l.name, limit, defaults[l.name])
		}
		delete(defaults, l.name)
	}
	if len(defaults) > 0 {
		t.Errorf("there are no limits %v", defaults)
	}
	if cmds.Serve.DatabaseURL != "sqlite:grpcchatter.db" {
		t.Errorf("DATABASE_URL: %s", cmds.Serve.DatabaseURL)
	}
	var flags []string
	for _, node := range parser.Model.Leaves(false) {
		for _, flag := range node.Flags {
			if node.Name == "serve" && flag.Name != "config" && flag.Name != "help" {
				flags = append(flags, "--"+flag.Name+"="+strings.Join(flag.Envs, " "))
			}
		}
	}
	var keys []string
	for _, key := range configKeys {
		keys = append(keys, flagOf(key)+"="+key)
	}
	slices.Sort(flags)
	slices.Sort(keys)
	if !slices.Equal(flags, keys) {
		t.Errorf("flags %v\nwant  %v", flags, keys)
	}
}

// For every key: flag over environment over file over default (design: "Configuration"). Which of them was
// taken is seen from the error about its value.
func TestConfigPrecedence(t *testing.T) {
	inFolder(t)
	// What each key is set to by flag, environment and file, and what its error says of it.
	quoted := func(source string) (value, says string) { return "bad-" + source, `"bad-` + source + `"` }
	values := map[string]func(source string) (value, says string){
		"SECRET":      func(source string) (string, string) { return source, fmt.Sprint("not ", len(source)) },
		"SECRET_FILE": func(source string) (string, string) { return "/missing/" + source, "/missing/" + source },
		"DATABASE_URL": func(source string) (string, string) {
			return "sqlite:/missing/" + source, "/missing/" + source
		},
		"REST_SERVER_ADDRESS": unusable, "GRPC_SERVER_ADDRESS": unusable,
	}
	for _, key := range configKeys {
		value := values[key]
		if value == nil {
			value = quoted
		}
		base := []string{"--listen-addr=127.0.0.1:0"}
		if key == "LISTEN_ADDR" {
			base = nil
		}
		if pair, ok := strings.CutSuffix(key, "_SERVER_ADDRESS"); ok {
			base = append(base, flagOf(pair+"_SERVER_PORT")+"=0")
		}
		for _, c := range []struct{ flag, env, file, emptyEnv bool }{
			{true, true, true, false}, {true, false, true, false}, {true, true, false, false}, {true, false, false, false},
			{false, true, true, false}, {false, true, false, false}, {false, false, true, false}, {false, false, true, true},
		} {
			args, want := slices.Clone(base), ""
			t.Setenv(key, "")
			if !c.env && !c.emptyEnv {
				os.Unsetenv(key) // t.Setenv restores it
			}
			for _, s := range []struct {
				source string
				set    bool
			}{{"the-file", c.file}, {"environment", c.env}, {"flag", c.flag}} {
				if !s.set {
					continue
				}
				v, says := value(s.source)
				want = says
				switch s.source {
				case "flag":
					args = append(args, flagOf(key)+"="+v)
				case "environment":
					t.Setenv(key, v)
				case "the-file":
					if err := os.WriteFile("file.env", []byte("# a comment\n"+key+"="+v+"\n"), 0o600); err != nil {
						t.Fatal(err)
					}
					args = append(args, "--config=file.env")
				}
			}
			if got := serveError(t, args...); !strings.Contains(got, want) {
				t.Errorf("%s with %+v: %q, want it to say %s", key, c, got, want)
			}
		}
		t.Setenv(key, "")
	}
}

// unusable is an address of another machine (RFC 5737): nobody can listen on it.
func unusable(source string) (value, says string) {
	addr := fmt.Sprintf("192.0.2.%d", len(source))
	return addr, addr
}

// Each key refuses its bad values with an error that names the key, before anything is made (design: "an
// unknown or bad value is an error that names the key").
func TestConfigBadValues(t *testing.T) {
	onlySQLite(t)
	dir := inFolder(t)
	short, empty := filepath.Join(dir, "short"), filepath.Join(dir, "empty")
	for name, content := range map[string]string{short: strings.Repeat("s", 31) + "\n", empty: ""} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	numbers := []string{"", "0", "-1", "x", "6.0", "0x10", "1e3", "9999999999999999999999", "1_000", " 6"}
	ports := []string{"-1", "65536", "x", "80 ", "0x50", "http"}
	durations := []string{"", "0", "10", "-1s", "99ms", "24h1s", "1 s", "x"}
	switches := []string{"", "true", "1", "yes", "on off", "open,closed"}
	badLimits := []string{"", "on", "10", "10/10s", "10+1", "+1/1s", "10+1/", "0+1/1s", "10+0/1s", "-1+1/1s", "10+-1/1s", "1_0+1/1s", "100001+1/1s", "10+1000001/1s",
		"10+1/0s", "10+1/-1s", "10+1/999us", "10+1/24h1s", "10+1/s", "10+1/10", " 10+1/1s", "10 +1/1s", "10+1/1s,5+1/1s", "1e3+1/1s", "99999999999999999999+1/1s"}
	bads := map[string][]string{
		"LISTEN_ADDR":            {"", "8080", "localhost", "127.0.0.1", ":http", ":65536", ":-1", "a:b:c", "127.0.0.1:0,", ",", "[::1", "http://127.0.0.1:0", "127.0.0.1:0;127.0.0.1:1", "192.0.2.1:0"},
		"DATABASE_URL":           {"sqlite:", "grpcchatter.db", "mysql://user:hunter2hunter2@host/db", "file:x.db", "sqlite"},
		"SECRET":                 {"x", strings.Repeat("x", 31)},
		"SECRET_FILE":            {"missing", dir, short, empty},
		"TOKEN_DURATION":         {"", "0", "1", "-1h", "999ms", "1d", "1 h", "x", "9999999999h", "87601h", "2562047h47m16s"},
		"SHORT_CODE_LENGTH":      append(numbers, "3", "33"),
		"MAX_MESSAGE_QUEUE_SIZE": append(numbers, "1000001"),
		"MAX_MESSAGE_SIZE":       append(numbers, "1048577"),
		"MESSAGE_RETENTION":      {"0", "-1", "59m", "forever", "720h,", "720h,720h", "10,20", ",", "720h,10,5", "10 messages", "1.5", "99999999999999999999"},
		"REGISTRATION":           append(switches, "opened"),
		"RATE_LIMITS":            append(switches, "open"),
		"LOG_LEVEL":              append(switches, "verbose", "info+1", "trace"),
		"LOG_FORMAT":             append(switches, "xml"),
		"SQLITE_SYNCHRONOUS":     append(switches, "off", "extra"),
		"REST_SERVER_PORT":       ports, "GRPC_SERVER_PORT": ports,
		"REST_SERVER_ADDRESS": {"127.0.0.1"}, "GRPC_SERVER_ADDRESS": {"127.0.0.1"}, // without a port
		"METRICS_ADDR": {"9090", "localhost", ":http", ":65536", "a:b:c", "[::1", "http://127.0.0.1:0", "127.0.0.1:0,127.0.0.1:0", "192.0.2.1:0"},
		"TLS_CERT":     {"cert.pem"}, "TLS_KEY": {"key.pem"}, // one without the other
		"AUTOCERT_DOMAIN": {"localhost", "192.0.2.1", "::1", "[::1]", "2001:db8::1", "https://chat.example.com", "chat.example.com:443", "*.example.com", "chat_1.example.com",
			"chat.example.com,", ",", ".", "a..example.com", "-.example.com", strings.Repeat("a", 64) + ".example.com", strings.Repeat("a.", 127) + "example.com", "chat.example.com chat2.example.com"},
		"AUTOCERT_EMAIL": {"ann@example.com"}, "AUTOCERT_DIRECTORY": {"https://acme.example.com/directory"}, "AUTOCERT_HTTP_ADDR": {":80", "off"}, // without AUTOCERT_DOMAIN
		"TRUSTED_PROXIES": {"localhost", "10.0.0.0/33", "10.0.0.0/", "10.0.0", "10.0.0.1,", ",", "0.0.0.0/0", "::/0", "::ffff:0.0.0.0/95", "::ffff:0.0.0.0/96", "fe80::1%eth0", "fe80::%eth0/10", "127.0.0.1:80", "[::1]", "10.0.0.0/8;::1"},
		"MAX_CONNECTIONS": append(numbers[1:], "10000001"), "MAX_CONNECTIONS_PER_ADDRESS": append(numbers, "10000001"), "MAX_STREAMS_PER_CONNECTION": append(numbers, "100001"),
		"HANDSHAKE_TIMEOUT": durations, "HEADER_TIMEOUT": durations, "REQUEST_TIMEOUT": durations, "IDLE_TIMEOUT": durations,
	}
	for _, key := range configKeys {
		if strings.HasPrefix(key, "LIMIT_") {
			bads[key] = badLimits
		}
	}
	for key, bad := range bads {
		base := []string{"--listen-addr=127.0.0.1:0"}
		if key == "LISTEN_ADDR" {
			base = nil
		}
		for _, value := range bad {
			got := serveError(t, append(base, flagOf(key)+"="+value)...)
			if !strings.Contains(got, key) || strings.Contains(got, "hunter2") || key == "SECRET" && strings.Contains(got, "xx") {
				t.Errorf("%s=%s: %q, want an error that names %s, and no secret", key, value, got, key)
			}
		}
	}
	both := serveError(t, "--listen-addr=127.0.0.1:0", "--secret="+testSecret, "--secret-file="+short)
	if !strings.Contains(both, "SECRET") || !strings.Contains(both, "one of them") {
		t.Errorf("SECRET and SECRET_FILE: %q", both)
	}
	taken := "127.0.0.1:" + freePort(t)
	for key, bad := range map[string][]string{
		"AUTOCERT_EMAIL": {"ann", "Ann <ann@example.com>", "ann@example.com, ben@example.com"}, "AUTOCERT_DIRECTORY": {"acme.example.com", "http://acme.example.com/", "https://", "%zz"},
		"AUTOCERT_HTTP_ADDR": {"80", "on", ":http", ":65536", taken, "192.0.2.1:0"},
	} {
		for _, value := range bad {
			if got := serveError(t, "--listen-addr="+taken, "--autocert-domain=chat.example.com", flagOf(key)+"="+value); !strings.Contains(got, key) {
				t.Errorf("%s=%s: %q does not name it", key, value, got)
			}
		}
	}
	two := serveError(t, "--listen-addr=127.0.0.1:0", "--autocert-domain=chat.example.com", "--tls-cert=cert.pem", "--tls-key=key.pem")
	if !strings.Contains(two, "AUTOCERT_DOMAIN") || !strings.Contains(two, "TLS_CERT") || !strings.Contains(two, "one of them") {
		t.Errorf("TLS_CERT and AUTOCERT_DOMAIN: %q", two)
	}
	several := serveError(t, "--listen-addr=x", "--token-duration=x", "--log-level=x")
	for _, key := range []string{"LISTEN_ADDR", "TOKEN_DURATION", "LOG_LEVEL"} {
		if !strings.Contains(several, key) {
			t.Errorf("three bad keys: %q does not name %s", several, key)
		}
	}
	for _, pair := range []string{"REST_SERVER", "GRPC_SERVER"} { // an address that cannot be had is this key's fault
		got := serveError(t, "--listen-addr=127.0.0.1:0", flagOf(pair+"_ADDRESS")+"=192.0.2.1", flagOf(pair+"_PORT")+"=0")
		if !strings.Contains(got, pair+"_ADDRESS") {
			t.Errorf("%s_ADDRESS=192.0.2.1: %q does not name it", pair, got)
		}
	}
	wantFolder(t, dir, []string{"empty", "short"})
}

// A file with what is not known or cannot be read is refused, and what it says is not repeated: it may be a
// secret (promise 7).
func TestConfigFileErrors(t *testing.T) {
	dir := inFolder(t)
	file := filepath.Join(dir, "file.env")
	const secret = "hunter2hunter2hunter2hunter2hunter2"
	for name, c := range map[string]struct{ content, names string }{
		"unknown key":               {"LISTEN_ADR=127.0.0.1:0\n", "LISTEN_ADR"},
		"unknown key with a secret": {"SECRT=" + secret + "\n", "SECRT"},
		"key in lower case":         {"token_duration=1h\n", "token_duration"},
		"key of another command":    {"GRPCCHATTER_PASSWORD=" + secret + "\n", "GRPCCHATTER_PASSWORD"},
		"name that is none":         {"LISTEN-ADDR=x\nSECRET=" + secret + "\n", "file.env"},
		"quote that does not end":   {"SECRET=\"" + secret + "\n", "file.env"},
		"quote that does not end '": {"TOKEN_DURATION=1h\nSECRET='" + secret + "\n", "file.env"},
		"binary":                    {"\x00\x01\x02SECRET=" + secret, "file.env"},
		"JSON":                      {`{"SECRET": "` + secret + `"}`, "file.env"},
		"bad value":                 {"TOKEN_DURATION=soon\nSECRET=" + secret + "\n", "TOKEN_DURATION"},
		"short secret":              {"SECRET=hunter2\n", "SECRET"},
	} {
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got := serveError(t, "--listen-addr=127.0.0.1:0", "--config="+file)
		if !strings.Contains(got, c.names) || strings.Contains(got, "hunter2") {
			t.Errorf("%s: %q, want an error that names %s, and nothing of what is in the file", name, got, c.names)
		}
	}
	for path, says := range map[string]string{"missing.env": "missing.env: no such file", dir: dir + ": is a directory", "": ": is a directory"} {
		if got := serveError(t, "--listen-addr=127.0.0.1:0", "--config="+path); !strings.Contains(got, says) || strings.Contains(got, "KEY=VALUE") {
			t.Errorf("--config=%s: %q", path, got)
		}
	}
	wantFolder(t, dir, []string{"file.env"})
}

// The exit status of a bad configuration, from the real program, whatever form it came in.
func TestConfigExitStatus(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "x.env")
	if err := os.WriteFile(file, []byte("TOKEN_DURATION=soon\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ env, arg string }{
		{"TOKEN_DURATION=soon", "serve"}, {"", "--token-duration=soon"}, {"", "--config=" + file},
	} {
		status, out, errOut := runProgram(t, dir, []string{c.env}, "", c.arg)
		wantFailure(t, status, out, errOut, "TOKEN_DURATION")
	}
	wantFolder(t, dir, []string{"x.env"})
}

// The ports of freePort, below those that a kernel gives to who asks for any: nobody else has got one when the program comes
// to listen on it, nor while a server is killed and started again.
const firstPort, ports = 10_000, 20_000

// portsGiven begins anywhere: other tests may run on this machine.
var portsGiven = func() *atomic.Uint32 {
	n := new(atomic.Uint32)
	n.Store(rand.Uint32N(ports))
	return n
}()

// freePort returns a port that is free now, and that it has not returned before.
func freePort(t testing.TB) string {
	t.Helper()
	for range ports {
		port := fmt.Sprint(firstPort + portsGiven.Add(1)%ports)
		if l, err := net.Listen("tcp", ":"+port); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// The original's configuration file works as it is: configs/default_config.env of the original, with other ports and
// another address of the database (design: "its configuration file works unchanged").
func TestOriginalConfigFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	restPort, grpcPort := freePort(t), freePort(t)
	file := filepath.Join(dir, "default_config.env")
	if err := os.WriteFile(file, []byte("DATABASE_URL="+databaseURL(t, dir)+"\nREST_SERVER_ADDRESS=0.0.0.0\nREST_SERVER_PORT="+restPort+
		"\nGRPC_SERVER_ADDRESS=0.0.0.0\nGRPC_SERVER_PORT="+grpcPort+"\nTOKEN_DURATION=10m\nSECRET=12345678901234567890123456789012\nSHORT_CODE_LENGTH=6\nMAX_MESSAGE_QUEUE_SIZE=255\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// LISTEN_ADDR as its default would be where REST_SERVER_PORT is 8080: covered by 0.0.0.0.
	p := startProgram(t, dir, []string{"DATABASE_URL="}, "--config", file, "--listen-addr=127.0.0.1:"+restPort)
	p.addrs(t, 2)
	rest := &serverProcess{t: t, addr: "127.0.0.1:" + restPort}
	token := rest.login("alice")
	grpc := &serverProcess{t: t, addr: "127.0.0.1:" + grpcPort}
	code := onlyText(t, mustCall(t, grpc.dial(), tokenHeader(token), original+"CreateChatRoom", text(1, "a room")))
	if len(code) != 6 {
		t.Errorf("short code %q", code)
	}
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil || claims.ExpiresAt.Sub(claims.IssuedAt.Time).Truncate(2*time.Second) != 10*time.Minute {
		t.Errorf("claims %+v %v, want an end after 10m", claims, err)
	}
	var rooms int
	if err := openData(t, dir).QueryRow(`SELECT count(*) FROM rooms`).Scan(&rooms); err != nil || rooms != 1 {
		t.Errorf("the database of the file has %d rooms, %v", rooms, err)
	}
}

// An address that another one has already is no error, by whatever name it goes: an original's file may say
// localhost:8080, where LISTEN_ADDR has its default.
func TestListenAddrTwice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ listen, host string }{
		{"127.0.0.1", "127.0.0.1"}, {"127.0.0.1", "0.0.0.0"}, {"127.0.0.1", ""}, {"127.0.0.1", "localhost"}, {"0.0.0.0", "127.0.0.1"}, {"", "0.0.0.0"},
	} {
		port := freePort(t)
		status, _, errOut := runUntilReady(t, "--listen-addr="+c.listen+":"+port, "--rest-server-address="+c.host, "--rest-server-port="+port)
		if status != 0 {
			t.Errorf("LISTEN_ADDR=%s:%s and REST_SERVER_ADDRESS=%q with the same port: %s", c.listen, port, c.host, errOut)
		}
	}
}

// A port in use is an error that names key and address, and leaves the data alone.
func TestPortInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().String()
	host, port, _ := net.SplitHostPort(addr)
	dir := t.TempDir()
	for key, args := range map[string][]string{
		"LISTEN_ADDR":      {"--listen-addr=127.0.0.1:0," + addr},
		"REST_SERVER_PORT": {"--listen-addr=127.0.0.1:0", "--rest-server-address=" + host, "--rest-server-port=" + port},
		"GRPC_SERVER_PORT": {"--listen-addr=127.0.0.1:0", "--grpc-server-address=" + host, "--grpc-server-port=" + port},
	} {
		status, out, errOut := runProgram(t, dir, nil, "", append([]string{"serve"}, args...)...)
		wantFailure(t, status, out, errOut, addr)
		wantFailure(t, status, out, errOut, key)
	}
	wantFolder(t, dir, nil)
}

// A SECRET from a file signs the tokens, and its last line break is not part of it.
func TestSecretFile(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"", "\n", "\r\n"} {
		dir := t.TempDir()
		file := filepath.Join(dir, "secret")
		if err := os.WriteFile(file, []byte(testSecret+end), 0o600); err != nil {
			t.Fatal(err)
		}
		p := startServer(t, "--secret-file="+file)
		p.login("alice")
		token, err := tokenMaker(t, testSecret).userToken(user{ID: 1})
		if err != nil {
			t.Fatal(err)
		}
		mustCall(t, p.dial(), bearerHeader(token), current+"ListChatRooms")
		_, err = rawCall(t, p.dial(), bearerHeader(token+"x"), current+"ListChatRooms")
		wantError(t, err, codes.Unauthenticated, "TOKEN_INVALID")
	}
}

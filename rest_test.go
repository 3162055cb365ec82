package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// restCall is one row of the REST contract.
type restCall struct {
	name, method, path, body string
	status                   int
	code                     string // of an error
}

func credentialsJSON(name, password string) string {
	b, err := json.Marshal(map[string]string{"user_name": name, "password": password})
	if err != nil {
		panic(err) // a map of strings
	}
	return string(b)
}

// Every status of the table, each answer JSON of exactly the keys that the contract has (design: "Wire
// contract: REST"; fault 6).
func TestREST(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	p.login("taken")
	p.login("locked")
	mustRun(t, p.dir, "", "user", "disable", "locked")
	good := credentialsJSON("newcomer", testPassword)
	var calls []restCall
	for _, path := range []string{"/register", "/login"} {
		for name, body := range map[string]string{
			"empty": "", "no JSON": "{", "not quoted": "{user_name:x}", "array": "[]", "null": "null", "null in space": " null\n", "text": `"x"`, "number": "1", "two objects": good + good,
			"trailing garbage": good + "x", "deep": strings.Repeat("[", 12000), "form": "user_name=x&password=y", "BOM": "\ufeff" + good,
			"UTF-16":    "{\x00}\x00",
			"not UTF-8": `{"user_name":"not-UTF-8","password":"` + "\xff\xff\xff\xff\xff\xff\xff\xff" + `"}`,
		} {
			calls = append(calls, restCall{name, "POST", path, body, 400, "INVALID_JSON"})
		}
		for name, body := range map[string]string{
			"no keys": "{}", "no password": `{"user_name":"newcomer"}`, "no name": `{"password":"correct horse"}`,
			"name a number": `{"user_name":1,"password":"correct horse"}`, "password a number": `{"user_name":"newcomer","password":12345678}`,
			"password an object": `{"user_name":"newcomer","password":{}}`, "name null": `{"user_name":null,"password":"correct horse"}`,
		} {
			calls = append(calls, restCall{name, "POST", path, body, 400, "INVALID_FIELD"})
		}
		padded := func(size int) string { return good[:len(good)-1] + strings.Repeat(" ", size-len(good)) + "}" }
		calls = append(calls,
			restCall{"a byte too large", "POST", path, padded(16<<10 + 1), 413, "BODY_TOO_LARGE"},
			restCall{"large behind the object", "POST", path, good + strings.Repeat(" ", 16<<10), 413, "BODY_TOO_LARGE"},
			restCall{"a megabyte", "POST", path, padded(1 << 20), 413, "BODY_TOO_LARGE"},
		)
		for _, method := range []string{"GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "NONSENSE"} {
			calls = append(calls, restCall{"wrong method", method, path, "", 405, "METHOD_NOT_ALLOWED"})
		}
	}
	calls = append(calls, restCall{"wrong method", "POST", "/", good, 405, "METHOD_NOT_ALLOWED"})
	for _, path := range []string{"/nothing", "//register", "/register/", "/register//", "/./register", "/x/../register", "/REGISTER", "/%00",
		"/register%00", "/register%2F", "/%2e%2e/register", "/proto.GRPCChatter/Chat", "/healthz/", "//healthz", "/x/../healthz", "/.git/config", "/index.html", "/web/index.html", "/schema.sql"} {
		for _, method := range []string{"GET", "POST"} {
			calls = append(calls, restCall{"wrong path", method, path, good, 404, "NOT_FOUND"})
		}
	}
	calls = append(calls,
		restCall{"wrong method", "POST", "/healthz", "", 405, "METHOD_NOT_ALLOWED"},
		restCall{"wrong method", "DELETE", "/readyz", "", 405, "METHOD_NOT_ALLOWED"},
		restCall{"alive", "GET", "/healthz", "", 200, ""},
		restCall{"ready", "GET", "/readyz?x=1", "", 200, ""},
		restCall{"taken", "POST", "/register", credentialsJSON("taken", testPassword), 409, "NAME_TAKEN"},
		restCall{"taken but for case", "POST", "/register", credentialsJSON("TaKeN", testPassword), 409, "NAME_TAKEN"},
		restCall{"unknown user", "POST", "/login", credentialsJSON("unknown", testPassword), 401, "INVALID_CREDENTIALS"},
		restCall{"wrong password", "POST", "/login", credentialsJSON("taken", "correct horsf"), 401, "INVALID_CREDENTIALS"},
		restCall{"long password", "POST", "/login", credentialsJSON("taken", strings.Repeat("x", 9000)), 401, "INVALID_CREDENTIALS"},
		restCall{"odd name", "POST", "/login", credentialsJSON("' OR 1=1 --", testPassword), 401, "INVALID_CREDENTIALS"},
		restCall{"disabled", "POST", "/login", credentialsJSON("locked", testPassword), 403, "ACCOUNT_DISABLED"},
		restCall{"disabled, wrong password", "POST", "/login", credentialsJSON("locked", "correct horsf"), 401, "INVALID_CREDENTIALS"},
		restCall{"other case", "POST", "/login", credentialsJSON("TAKEN", testPassword), 200, ""},
	)
	wrong := map[string]string{}
	for _, c := range calls {
		status, header, answer, err := request(p.addr, c.method, c.path, c.body)
		what := fmt.Sprintf("%s %s %s", c.method, c.path, c.name)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		code, _ := answer["code"].(string)
		if status != c.status || code != c.code {
			t.Errorf("%s: %d %s, want %d %s", what, status, code, c.status, c.code)
		}
		if status >= 400 {
			wantErrorAnswer(t, what, status, header, answer)
		}
		if code == "INVALID_CREDENTIALS" {
			wrong[answer["error"].(string)] = c.name
		}
		if allow := header.Get("Allow"); status == 405 && (allow == "" || strings.Contains(allow, c.method) || (strings.HasSuffix(c.path, "z") || c.path == "/") != strings.Contains(allow, "GET")) {
			t.Errorf("%s: Allow: %q", what, allow)
		}
	}
	if len(wrong) != 1 {
		t.Errorf("an unknown user and a wrong password are told apart: %v", wrong)
	}

	status, _, answer, err := post(p.addr, "/register", good)
	if err != nil || status != 200 || !slices.Equal(slices.Sorted(maps.Keys(answer)), []string{"created_at", "id", "role", "user_name"}) {
		t.Fatalf("register: %d %v %v", status, answer, err)
	}
	created, err := time.Parse(time.RFC3339, answer["created_at"].(string))
	if err != nil || time.Since(created).Abs() > time.Minute || answer["user_name"] != "newcomer" || answer["role"] != "USER" {
		t.Errorf("register: %v %v", answer, err)
	}
	if id, ok := answer["id"].(float64); !ok || id != float64(int64(id)) || id < 1 {
		t.Errorf("register: id %v, want an integer", answer["id"])
	}
	status, _, answer, err = post(p.addr, "/login", good)
	if err != nil || status != 200 || !slices.Equal(slices.Sorted(maps.Keys(answer)), []string{"token"}) {
		t.Errorf("login: %d %v %v", status, answer, err)
	}
}

// wantErrorAnswer checks what every error of REST has.
func wantErrorAnswer(t *testing.T, what string, status int, header http.Header, answer map[string]any) {
	t.Helper()
	sentence, _ := answer["error"].(string)
	code, _ := answer["code"].(string)
	if len(answer) != 2 || !regexp.MustCompile(`^[A-Z]+(_[A-Z]+)*$`).MatchString(code) || !regexp.MustCompile(`^[A-Z].*[.-]$`).MatchString(sentence) {
		t.Errorf("%s: %v, want a sentence as error and a code in UPPER_SNAKE", what, answer)
	}
	if got := header.Get("Content-Type"); got != "application/json" {
		t.Errorf("%s: Content-Type %q", what, got)
	}
	seconds, err := strconv.Atoi(header.Get("Retry-After"))
	if needs := status == 429 || status == 503; needs != (err == nil && seconds > 0) {
		t.Errorf("%s: %d with Retry-After %q", what, status, header.Get("Retry-After"))
	}
	if got := header.Get("WWW-Authenticate"); (status == 401) != (got == "Bearer") {
		t.Errorf("%s: %d with WWW-Authenticate %q", what, status, got)
	}
}

// request makes a REST call of any method and path, as it stands. The answer has to be JSON.
func request(addr, method, path, body string) (status int, header http.Header, answer map[string]any, err error) {
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n", method, path, len(body))
	resp, raw, err := exchange(addr, head+body)
	if err != nil {
		return 0, nil, nil, err
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return 0, nil, nil, fmt.Errorf("%d with the body %q: %w", resp.StatusCode, raw, err)
	}
	return resp.StatusCode, resp.Header, answer, nil
}

func post(addr, path, body string) (int, http.Header, map[string]any, error) {
	return request(addr, "POST", path, body)
}

// exchange writes text to a new connection, and reads one HTTP answer.
func exchange(addr, text string) (*http.Response, []byte, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	go io.WriteString(conn, text) // the server may answer and close before it has read all
	method, _, _ := strings.Cut(text, " ")
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	return resp, raw, err
}

// The rules of user names and passwords, at their borders (design: "User names: …; Passwords: …"; fault 6:
// 73-byte passwords).
func TestRegisterRules(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	for i, c := range []struct {
		name, password string
		field          string // that is bad; none: it is fine
	}{
		{"", testPassword, "user_name"},
		{"a", testPassword, "user_name"},
		{"ab", testPassword, ""},
		{strings.Repeat("a", 32), testPassword, ""},
		{strings.Repeat("a", 33), testPassword, "user_name"},
		{"A.b_c-9", testPassword, ""},
		{"..", testPassword, ""},
		{"a b", testPassword, "user_name"},
		{"a\n", testPassword, "user_name"},
		{"a\x00", testPassword, "user_name"},
		{"é1", testPassword, "user_name"},
		{"аdmin", testPassword, "user_name"}, // a Cyrillic а
		{"kelvin\u212a", testPassword, "user_name"},
		{"a@b", testPassword, "user_name"},
		{"a/b", testPassword, "user_name"},
		{"", "", "user_name"},
		{"p0", "", "password"},
		{"p1", "1234567", "password"},
		{"p2", "12345678", ""},
		{"p3", "éééé", ""}, // 8 bytes
		{"p4", "ééé", "password"},
		{"p5", "        ", ""},
		{"p6", "\x00\x01\x02\n\r\t\x7f\u2028", ""},
		{"p7", strings.Repeat("x", 73), ""},
		{"p8", strings.Repeat("x", 256), ""},
		{"p9", strings.Repeat("x", 257), "password"},
		{"p10", strings.Repeat("😀", 64), ""},
		{"p11", strings.Repeat("😀", 64) + "x", "password"},
		{"password-is-name", "password-is-name", "password"},
		{"password-is-Name", "PASSWORD-is-name", "password"},
	} {
		body := credentialsJSON(c.name, c.password)
		what := fmt.Sprintf("%d: %q %.20q (%d bytes)", i, c.name, c.password, len(c.password))
		status, _, answer, err := post(p.addr, "/register", body)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if c.field == "" {
			if status != 200 {
				t.Errorf("%s: %d %v, want 200", what, status, answer)
			} else if status, _, answer, err := post(p.addr, "/login", body); status != 200 {
				t.Errorf("%s: login %d %v %v, want 200", what, status, answer, err)
			}
			continue
		}
		rule, _ := answer["error"].(string)
		word := map[string]string{"user_name": "user name", "password": "password"}[c.field]
		if status != 400 || answer["code"] != "INVALID_FIELD" || !strings.Contains(rule, word) {
			t.Errorf("%s: %d %v, want 400 INVALID_FIELD on the %s", what, status, answer, word)
		}
	}
	// What is no text would be stored as U+FFFD, and be the same as any other.
	for _, password := range []string{`\ud800\ud800\ud800`, `password\udfff`, `\udc00\ud800`, `\\\ud800\\ud800`, "\xff\xff\xff\xff\xff\xff\xff\xff"} {
		status, _, answer, err := post(p.addr, "/register", `{"user_name":"lone","password":"`+password+`"}`)
		if status != 400 || answer["code"] != "INVALID_JSON" {
			t.Errorf("%q: %d %v %v, want 400 INVALID_JSON", password, status, answer, err)
		}
	}
	for i, password := range []string{`\ud83d\ude00\uD83D\uDE00`, `\\ud800\\ud800`, `\ufffd\ufffd\ufffd`} {
		status, _, answer, err := post(p.addr, "/register", fmt.Sprintf(`{"user_name":"pair%d","password":"%s"}`, i, password))
		if status != 200 {
			t.Errorf("%q: %d %v %v, want 200", password, status, answer, err)
		}
	}
	// The 73rd byte counts.
	if status, _, _, err := post(p.addr, "/login", credentialsJSON("p7", strings.Repeat("x", 72)+"y")); status != 401 {
		t.Errorf("73 bytes, the last one wrong: %d %v, want 401", status, err)
	}
}

// One name registered 500 times at once is one account (fault 6: two registrations at once ended in 500).
func TestRegisterAtOnce(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	var all sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	for i := range 500 {
		all.Go(func() {
			name := []string{"same", "Same", "SAME"}[i%3]
			status, _, answer, err := post(p.addr, "/register", credentialsJSON(name, testPassword))
			mu.Lock()
			defer mu.Unlock()
			code, _ := answer["code"].(string)
			answers[strings.TrimSpace(fmt.Sprint(status, " ", code))]++
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	t.Log(answers)
	if answers["200"] != 1 || answers["200"]+answers["409 NAME_TAKEN"]+answers["503 OVERLOADED"] != 500 {
		t.Errorf("%v: want exactly one 200, and nothing but NAME_TAKEN and OVERLOADED beside it", answers)
	}
	if status, _, answer, err := post(p.addr, "/register", credentialsJSON("sAmE", testPassword)); status != 409 {
		t.Errorf("afterwards: %d %v %v", status, answer, err)
	}
}

// With REGISTRATION=closed nobody can register (table: 403).
func TestRegistrationClosed(t *testing.T) {
	t.Parallel()
	p := startServer(t, "--registration=closed")
	for _, body := range []string{credentialsJSON("anybody", testPassword), "{", ""} {
		status, header, answer, err := post(p.addr, "/register", body)
		if err != nil || status != 403 || answer["code"] != "REGISTRATION_CLOSED" {
			t.Errorf("%q: %d %v %v, want 403 REGISTRATION_CLOSED", body, status, answer, err)
		}
		wantErrorAnswer(t, body, status, header, answer)
	}
	mustRun(t, p.dir, testPassword+"\n", "user", "add", "invited")
	if status, _, answer, err := post(p.addr, "/login", credentialsJSON("invited", testPassword)); status != 200 {
		t.Errorf("login: %d %v %v", status, answer, err)
	}
}

// Whoever speaks HTTP gets its answer: 1.0, 1.1 and pipelined, HEAD, chunked, half-closed, with or without
// keep-alive.
func TestHTTPDialects(t *testing.T) {
	t.Parallel()
	p := startServer(t)
	p.login("alice")
	login := credentialsJSON("alice", testPassword)
	length := "Content-Length: " + strconv.Itoa(len(login)) + "\r\n\r\n" + login
	for _, c := range []struct {
		name, text string
		statuses   []int
		halfClose  bool
	}{
		{"HTTP/1.0", "GET /healthz HTTP/1.0\r\n\r\n", []int{200}, false},
		{"HTTP/1.0 with body", "POST /login HTTP/1.0\r\n" + length, []int{200}, false},
		{"HEAD", "HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{200}, false},
		{"HEAD where there is only POST", "HEAD /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{405}, false},
		{"HEAD of nothing", "HEAD /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{404}, false},
		{"pipelined", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\nPOST /login HTTP/1.1\r\nHost: x\r\n" + length +
			"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{200, 404, 200, 200}, false},
		{"chunked", "POST /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" +
			fmt.Sprintf("5\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", login[:5], len(login)-5, login[5:]), []int{200}, false},
		{"chunked, too large", "POST /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n" +
			strings.Repeat("400\r\n"+strings.Repeat(" ", 1024)+"\r\n", 17) + "0\r\n\r\n", []int{413}, false},
		{"expects to be asked", "POST /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\n" + length, []int{100, 200}, false},
		{"absolute path", "GET http://x/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{200}, false},
		{"OPTIONS of all", "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", []int{404}, false},
		{"Upgrade", "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", []int{200}, false},
		{"half-closed", "POST /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + length, []int{200}, true},
		{"cut off", "POST /login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100\r\n\r\n{", []int{400}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", p.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := io.WriteString(conn, c.text); err != nil {
				t.Fatal(err)
			}
			if c.halfClose {
				_ = conn.(*net.TCPConn).CloseWrite()
			}
			method, _, _ := strings.Cut(c.text, " ")
			in := bufio.NewReader(conn)
			for i, want := range c.statuses {
				resp, err := http.ReadResponse(in, &http.Request{Method: method})
				if err != nil {
					t.Fatalf("answer %d: %v", i, err)
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != want {
					t.Fatalf("answer %d: %d %q %v, want %d", i, resp.StatusCode, body, err, want)
				}
				if want != 100 && (method != "HEAD") != json.Valid(body) {
					t.Errorf("answer %d: %d with the body %q, want JSON (and nothing to HEAD)", i, resp.StatusCode, body)
				}
			}
			if rest, err := io.ReadAll(in); len(rest) > 0 || err != nil {
				t.Errorf("more than was asked for: %q %v", rest, err)
			}
		})
	}
}

// readyz tells that the database does not answer; healthz does not ask it (table: 503).
func TestReadyzWithoutDatabase(t *testing.T) {
	t.Parallel()
	s := inProcessServer(t)
	get := func(path string) (int, http.Header, map[string]any) {
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Errorf("%s: %q: %v", path, w.Body, err)
		}
		return w.Code, w.Header(), answer
	}
	if code, _, answer := get("/readyz"); code != 200 {
		t.Errorf("readyz: %d %v", code, answer)
	}
	if err := s.store.r.Close(); err != nil {
		t.Fatal(err)
	}
	code, header, answer := get("/readyz")
	if code != 503 || answer["code"] != "DATABASE_UNAVAILABLE" {
		t.Errorf("readyz without a database: %d %v", code, answer)
	}
	wantErrorAnswer(t, "readyz", code, header, answer)
	if code, _, answer := get("/healthz"); code != 200 {
		t.Errorf("healthz: %d %v", code, answer)
	}
}

// Each port speaks REST and gRPC: every LISTEN_ADDR, and the original's pairs (design: "One port").
func TestEveryPortSpeaksBoth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := startProgram(t, dir, []string{"REST_SERVER_ADDRESS=127.0.0.1", "REST_SERVER_PORT=" + freePort(t), "GRPC_SERVER_PORT=" + freePort(t)},
		"--listen-addr=127.0.0.1:0,localhost:0", "--rate-limits=off")
	addrs := p.addrs(t, 4)
	for i, addr := range addrs {
		if status, _, answer, err := post(addr, "/register", credentialsJSON(fmt.Sprint("user", i), testPassword)); status != 200 {
			t.Errorf("%s: %d %v %v", addr, status, answer, err)
		}
		conn := (&serverProcess{t: t, addr: addr}).dial()
		_, err := rawCall(t, conn, nil, current+"ListChatRooms")
		wantError(t, err, codes.Unauthenticated, "TOKEN_MISSING")
		_, err = rawCall(t, conn, nil, original+"JoinChatRoom")
		wantError(t, err, codes.Unauthenticated, "TOKEN_MISSING")
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/grpcchatter/grpcchatter/pb"
)

// startMeasured starts a server with metrics, and returns their address too.
func startMeasured(t testing.TB, args ...string) (p *serverProcess, metrics string) {
	t.Helper()
	metrics = "127.0.0.1:" + freePort(t)
	return startServer(t, append(args, "--metrics-addr="+metrics)...), metrics
}

// fetch gets a page of the metrics' address.
func fetch(t testing.TB, addr, path string) (status int, body []byte) {
	t.Helper()
	client := http.Client{Transport: asItStands, Timeout: patience}
	resp, err := client.Get("http://" + addr + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

type scraped map[string]*dto.MetricFamily

// scrape reads the metrics as Prometheus does.
func scrape(t testing.TB, addr string) (scraped, []byte) {
	t.Helper()
	status, body := fetch(t, addr, "/metrics")
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if status != 200 || err != nil {
		t.Fatalf("/metrics: %d %v", status, err)
	}
	return families, body
}

// value sums a metric over all that have the labels, name and value by turns: of a histogram, the number of observations.
func (s scraped) value(name string, labels ...string) (sum float64) {
	for _, m := range s[name].GetMetric() {
		has := map[string]string{}
		for _, l := range m.GetLabel() {
			has[l.GetName()] = l.GetValue()
		}
		matches := true
		for i := 0; i < len(labels); i += 2 {
			matches = matches && has[labels[i]] == labels[i+1]
		}
		if matches {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

// After known traffic the metrics say what it was, with nothing in a label that is somebody's; and the dashboard asks for
// nothing that is not there.
func TestMetrics(t *testing.T) {
	t.Parallel()
	const roomName, body = "a room", "what is said"
	p, addr := startMeasured(t, "--rate-limits=on")
	alice, bob := p.login("alice"), p.login("bob")
	conn := p.dial()
	api := pb.NewGRPCChatterClient(conn)
	code := createRoom(t, api, alice)
	room, bobs := joinRoom(t, api, alice, code), joinRoom(t, api, bob, code)
	for range 3 {
		p.call("POST", "/login", "", `{"user_name":"alice","password":"a wrong password"}`)
	}
	p.call("GET", "/nothing/alice?x="+code, "", "")
	p.call("GET", "/rooms/"+code+"/messages", room, "")
	p.call("GET", "/rooms/"+code+"/messages", "", "")
	p.call("POST", "/rooms/"+code+"/messages", room, `{"body":"`+body+`"}`)
	_, _ = rawCall(t, conn, nil, current+"ListMessages")

	one, resumed := openDevice(t, api, room, -1), openDevice(t, api, bobs, 1)
	socket := openDevice(t, p.sockets(), bobs, 0)
	original := openOriginal(t, conn, originalJoin(t, conn, alice, code))
	one.await(t, 1) // what was posted, from the database: with it would come, uncounted, what is said before that
	socket.await(t, 1)
	for range 4 {
		one.say(t, "", body)
	}
	one.await(t, 5)
	resumed.await(t, 4)
	socket.await(t, 5)
	original.await(t, 4)

	var got scraped
	var text []byte
	values := []struct {
		want   float64
		name   string
		labels []string
	}{
		{2, "sessions", []string{"transport", "grpc"}},
		{1, "sessions", []string{"transport", "grpc_original"}},
		{1, "sessions", []string{"transport", "websocket"}},
		{4, "sessions_opened_total", nil},
		{2, "sessions_resumed_total", nil},
		{0, "sessions_stalled_total", nil},
		{1, "rooms", nil},
		{5, "messages_stored_total", nil},
		{3, "logins_failed_total", nil},
		{0, "database_errors_total", nil},
		{1, "build_info", nil},
		{1, "grpc_calls_total", []string{"method", current + "CreateChatRoom", "code", "OK"}},
		{2, "grpc_calls_total", []string{"method", current + "JoinChatRoom", "code", "OK"}},
		{1, "grpc_calls_total", []string{"method", "/proto.GRPCChatter/JoinChatRoom", "code", "OK"}},
		{1, "grpc_calls_total", []string{"method", current + "ListMessages", "code", "Unauthenticated"}},
		{3, "http_requests_total", []string{"route", "POST /login", "status", "401"}},
		{1, "http_requests_total", []string{"route", "none", "status", "404"}},
		{1, "http_requests_total", []string{"route", "GET /rooms/{short_code}/messages", "status", "200"}},
		{1, "http_requests_total", []string{"route", "GET /rooms/{short_code}/messages", "status", "401"}},
		{1, "http_requests_total", []string{"route", "POST /rooms/{short_code}/messages", "status", "200"}},
		{1, "http_requests_total", []string{"route", "GET /chat", "status", "101"}},
	}
	for _, v := range values {
		eventually(t, patience, v.name+" has its value", func() bool {
			got, text = scrape(t, addr)
			return got.value("grpcchatter_"+v.name, v.labels...) == v.want
		})
	}
	eventually(t, patience, "each session's delivery is counted, which is after it", func() bool {
		got, text = scrape(t, addr)
		return got.value("grpcchatter_delivery_seconds") >= 4
	})
	commits, deliveries := got.value("grpcchatter_commit_seconds"), got.value("grpcchatter_delivery_seconds")
	if commits < 2 || commits > 5 || commits != got.value("grpcchatter_batch_messages") {
		t.Errorf("%v commits, %v batches, of 5 messages, at least one after the other", commits, got.value("grpcchatter_batch_messages"))
	}
	if batch := got["grpcchatter_batch_messages"].GetMetric()[0].GetHistogram(); batch.GetSampleSum() != 5 {
		t.Errorf("the batches have %v messages, want 5", batch.GetSampleSum())
	}
	if deliveries > 16 {
		t.Errorf("%v deliveries, of 4 messages to 4 sessions", deliveries)
	}
	if late := got["grpcchatter_delivery_seconds"].GetMetric()[0].GetHistogram(); late.GetSampleSum() <= 0 || late.GetSampleSum() > deliveries*5 {
		t.Errorf("%v deliveries took %v s", deliveries, late.GetSampleSum())
	}
	for _, name := range []string{"go_goroutines", "go_memstats_heap_inuse_bytes", "process_resident_memory_bytes"} {
		if got.value(name) <= 0 {
			t.Errorf("%s is %v", name, got.value(name))
		}
	}
	if wal := got.value("grpcchatter_sqlite_wal_bytes"); (wal > 0) != (pgServer == nil) {
		t.Errorf("the WAL has %v bytes", wal)
	}
	for _, name := range []string{"alice", "bob", code, roomName, body, testPassword, alice, room, p.addr, p.dir} {
		if bytes.Contains(text, []byte(name)) {
			t.Errorf("the metrics have %q in them", name)
		}
	}
	labels := map[string]bool{}
	for name, family := range got {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if strings.HasPrefix(name, "grpcchatter_") {
					labels[l.GetName()] = true
				}
			}
		}
	}
	if want := []string{"code", "commit", "go", "kind", "limit", "method", "platform", "reason", "route", "status", "transport", "version"}; !slices.Equal(slices.Sorted(maps.Keys(labels)), want) {
		t.Errorf("the labels are %v, want %v: is a user or a room one?", slices.Sorted(maps.Keys(labels)), want)
	}

	for _, d := range []*device{one, resumed, socket} {
		d.leave()
	}
	original.leave()
	eventually(t, patience, "no session is left", func() bool {
		got, _ = scrape(t, addr)
		return got.value("grpcchatter_sessions") == 0 && got.value("grpcchatter_rooms") == 0
	})
	// Who resumes gets what is old: that was not delivered late.
	before := got.value("grpcchatter_delivery_seconds")
	openDevice(t, api, room, 0).await(t, 5)
	if got, _ = scrape(t, addr); got.value("grpcchatter_delivery_seconds") != before {
		t.Error("a catch-up counts as a delivery")
	}
	if pgServer == nil {
		certFile, keyFile := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
		writeCertificate(t, certFile, keyFile, 1)
		_, secure := startMeasured(t, "--tls-cert="+certFile, "--tls-key="+keyFile)
		withTLS, _ := scrape(t, secure)
		maps.Copy(got, withTLS)
		testDashboard(t, got)
		testListed(t, got)
	}
}

// testDashboard checks that every query of grafana.json has only metrics and labels that exist.
func testDashboard(t *testing.T, got scraped) {
	text, err := os.ReadFile("grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{"le": true, "instance": true, "job": true} // of labels too
	for name, family := range got {
		switch family.GetType() {
		case dto.MetricType_HISTOGRAM:
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				names[name+suffix] = true
			}
		default:
			names[name] = true
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				names[l.GetName()] = true
			}
		}
	}
	functions := []string{"sum", "by", "rate", "histogram_quantile", "time"}
	word := regexp.MustCompile(`[a-z_][a-z0-9_]*`)
	quoted := regexp.MustCompile(`"[^"]*"|\[\$__rate_interval\]`)
	queries, shown := 0, ""
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries++
			shown += target.Expr + "\n"
			words := word.FindAllString(quoted.ReplaceAllString(target.Expr, ""), -1)
			for _, w := range append(words, word.FindAllString(strings.Join(regexp.MustCompile(`{{.*?}}`).FindAllString(target.LegendFormat, -1), " "), -1)...) {
				if !names[w] && !slices.Contains(functions, w) {
					t.Errorf("the panel %s: %s: there is no %s", panel.Title, target.Expr, w)
				}
			}
			if strings.Count(target.Expr, "(") != strings.Count(target.Expr, ")") || len(words) == 0 {
				t.Errorf("the panel %s: %s", panel.Title, target.Expr)
			}
		}
	}
	if queries < 10 {
		t.Errorf("%d queries", queries)
	}
	for name := range got {
		if strings.HasPrefix(name, "grpcchatter_") && !strings.Contains(shown, name) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}

// testListed checks that OPERATING.md lists all metrics, and no other.
func testListed(t *testing.T, got scraped) {
	text, err := os.ReadFile("OPERATING.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, name := range regexp.MustCompile(`grpcchatter_[a-z_]+`).FindAllString(string(text), -1) {
		if listed[name] = true; got[name] == nil {
			t.Errorf("OPERATING.md has a metric %s", name)
		}
	}
	for name := range got {
		if strings.HasPrefix(name, "grpcchatter_") && !listed[name] {
			t.Errorf("OPERATING.md does not list %s", name)
		}
	}
}

// Profiles are beside the metrics, but not the command line, which may have a secret; and nothing of the chat is there, nor
// any of it at the chat's address.
func TestProfiles(t *testing.T) {
	t.Parallel()
	p, addr := startMeasured(t, "--secret="+testSecret)
	for path, want := range map[string]int{
		"/debug/pprof/": 200, "/debug/pprof/heap": 200, "/debug/pprof/goroutine?debug=2": 200, "/debug/pprof/symbol": 200, "/debug/pprof/trace?seconds=0.1": 200,
		"/debug/pprof/profile?seconds=1": 200, "/debug/pprof/cmdline": 404, "/": 404, "/healthz": 404, "/rooms": 404,
		// 125 s were answered after 125 s, whatever the server's timeouts.
		"/debug/pprof/profile?seconds=121": 400, "/debug/pprof/trace?seconds=1e9": 400, "/debug/pprof/heap?seconds=121": 400,
	} {
		status, body := fetch(t, addr, path)
		if status != want || bytes.Contains(body, []byte(testSecret)) {
			t.Errorf("%s: %d, want %d, and no secret", path, status, want)
		}
	}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap"} {
		if a := p.call("GET", path, "", ""); a.status != 404 {
			t.Errorf("%s at the chat's address: %d", path, a.status)
		}
	}
	// A profile that is being made, for much longer, does not keep the server from stopping.
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := asItStands.RoundTrip(must(http.NewRequest("GET", "http://"+addr+"/debug/pprof/profile?seconds=90", nil))); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}()
	eventually(t, patience, "a profile is being made", func() bool {
		_, goroutines := fetch(t, addr, "/debug/pprof/goroutine?debug=2")
		return bytes.Contains(goroutines, []byte("net/http/pprof.Profile("))
	})
	stopInTime(t, p)
	<-done
	p.start()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Without METRICS_ADDR there is one listener; with one that is taken, by another or by the chat itself, there is no start, and
// no data.
func TestMetricsAddr(t *testing.T) {
	t.Parallel()
	off := startServer(t)
	if a := off.call("GET", "/metrics", "", ""); a.status != 404 {
		t.Errorf("/metrics without METRICS_ADDR: %d", a.status)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir, port := t.TempDir(), freePort(t)
	file := filepath.Join(t.TempDir(), "config.env")
	if err := os.WriteFile(file, []byte("METRICS_ADDR="+taken.Addr().String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want      string
		env, args []string
	}{
		{"in use", []string{"METRICS_ADDR=" + taken.Addr().String()}, []string{"--listen-addr=127.0.0.1:0"}},
		{"in use", nil, []string{"--listen-addr=127.0.0.1:0", "--config=" + file}},
		{"their own", nil, []string{"--listen-addr=127.0.0.1:" + port, "--metrics-addr=127.0.0.1:" + port}},
		{"their own", nil, []string{"--listen-addr=127.0.0.1:" + port, "--metrics-addr=localhost:" + port}},
		{"their own", nil, []string{"--listen-addr=127.0.0.1:" + port, "--metrics-addr=0.0.0.0:" + port}},
		{"their own", nil, []string{"--listen-addr=:" + port, "--metrics-addr=127.0.0.1:" + port}},
	} {
		status, out, errOut := runProgram(t, dir, c.env, "", append([]string{"serve"}, c.args...)...)
		wantFailure(t, status, out, errOut, "METRICS_ADDR")
		wantFailure(t, status, out, errOut, c.want)
	}
	wantFolder(t, dir, nil)
}

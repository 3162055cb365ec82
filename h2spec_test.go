package main

import (
	"encoding/xml"
	"errors"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// The server keeps to HTTP/2 as well as a bare grpc-go server does: h2spec fails no more of its tests (reliability: "hold the
// failures to those").
func TestH2spec(t *testing.T) {
	onlySQLite(t)
	if !*slow {
		t.Skip("SKIPPED: it takes half a minute: -slow runs it")
	}
	t.Parallel()
	h2spec := installed(t, "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	bare := grpc.NewServer(grpc.MaxConcurrentStreams(1000)) // as MAX_STREAMS_PER_CONNECTION
	grpc_health_v1.RegisterHealthServer(bare, health.NewServer())
	go func() { _ = bare.Serve(l) }()
	defer bare.Stop()
	p := startServer(t)

	type testcase struct {
		Package string `xml:"package,attr"`
		Name    string `xml:"classname,attr"`
		Failure string `xml:"error"`
	}
	run := func(addr string) (all int, failed map[string]string) {
		host, port, _ := net.SplitHostPort(addr)
		file := filepath.Join(t.TempDir(), "report.xml")
		out, err := exec.Command(h2spec, "-h", host, "-p", port, "-o", "1", "-j", file).CombinedOutput() // it ends with 1 if a test fails
		report, readErr := os.ReadFile(file)
		var suites struct {
			Cases []testcase `xml:"testsuite>testcase"`
		}
		if err := errors.Join(readErr, xml.Unmarshal(report, &suites)); err != nil {
			t.Errorf("h2spec: %v: %s", err, out)
		}
		failed = make(map[string]string)
		for _, c := range suites.Cases {
			if c.Failure != "" {
				failed[c.Package+": "+c.Name] = c.Failure
			}
		}
		t.Logf("h2spec: %d tests, %d failed: %v", len(suites.Cases), len(failed), err)
		return len(suites.Cases), failed
	}
	// On a busy machine an answer is now and then later than h2spec waits: what counts fails each time, and never there.
	var onlyOurs map[string]string
	for i := range 3 {
		bares := make(chan map[string]string, 1)
		go func() {
			_, failed := run(l.Addr().String())
			bares <- failed
		}()
		all, ours := run(p.addr)
		if all < 140 {
			t.Errorf("only %d tests ran", all)
		}
		theirs := <-bares
		if i == 0 {
			onlyOurs = ours
		}
		maps.DeleteFunc(onlyOurs, func(name, _ string) bool { return ours[name] == "" || theirs[name] != "" })
		if len(onlyOurs) == 0 {
			break
		}
	}
	for name, failure := range onlyOurs {
		t.Errorf("fails here, and not with a bare grpc-go server: %s: %s", name, failure)
	}
	if status, _, _, err := request(p.addr, "GET", "/readyz", ""); status != 200 {
		t.Errorf("readyz: %d %v", status, err)
	}
}

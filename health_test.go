package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// `health` finds the server on its own machine by the server's own configuration, and any other by --server.
func TestHealth(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	dir := t.TempDir()
	certFile, keyFile, file := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "config.env")
	writeCertificate(t, certFile, keyFile, 1)
	plain := startServer(t)
	secure := startServer(t, "--tls-cert="+certFile, "--tls-key="+keyFile)
	_, port, _ := net.SplitHostPort(plain.addr)
	if err := os.WriteFile(file, []byte("LISTEN_ADDR="+secure.addr+"\nTLS_CERT="+certFile+"\nTLS_KEY="+keyFile+"\nTOKEN_DURATION=1h\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		says string
		env  []string
		args []string
	}{
		{"http://" + plain.addr, []string{"LISTEN_ADDR=" + plain.addr}, nil},
		{"http://" + plain.addr, []string{"LISTEN_ADDR=" + plain.addr + ", 127.0.0.1:1"}, nil},
		{"http://" + plain.addr, []string{"LISTEN_ADDR=0.0.0.0:" + port, "HTTP_PROXY=http://127.0.0.1:1"}, nil},
		{"http://" + plain.addr, []string{"LISTEN_ADDR=127.0.0.1:1"}, []string{"--listen-addr=:" + port}},
		{"http://" + plain.addr, nil, []string{"--server=" + plain.addr}},
		{"http://" + plain.addr, []string{"LISTEN_ADDR=127.0.0.1:1"}, []string{"--server=http://" + plain.addr}},
		{"https://" + secure.addr, []string{"LISTEN_ADDR=" + secure.addr, "TLS_CERT=" + certFile}, nil},
		{"https://" + secure.addr, nil, []string{"--config=" + file}},
		{"https://" + secure.addr, nil, []string{"--server=https://" + secure.addr, "--tls-cert=" + certFile}},
	} {
		status, out, errOut := runProgram(t, dir, c.env, "", append([]string{"health"}, c.args...)...)
		if status != 0 || out != c.says+" is ready.\n" || errOut != "" {
			t.Errorf("%v %v: status %d, %q, %q", c.env, c.args, status, out, errOut)
		}
	}
	// Another machine's certificate has to be one that is trusted.
	status, out, errOut := runProgram(t, dir, nil, "", "health", "--server=https://"+secure.addr)
	wantFailure(t, status, out, errOut, "certificate")
}

// What is not ready is told in one sentence, with the status 1.
func TestHealthOfOthers(t *testing.T) {
	onlySQLite(t)
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	others := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away/readyz":
			writeJSON(w, 503, map[string]string{"error": "The database is away.", "code": "DATABASE_UNAVAILABLE"})
		case "/moved/readyz":
			http.Redirect(w, r, "/ready/readyz", http.StatusFound)
		case "/ready/readyz":
			writeJSON(w, 200, map[string]string{"status": "ready"})
		case "/silent/readyz":
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	})}
	go others.Serve(l)
	defer others.Close()
	dir, server := t.TempDir(), "--server=http://"+l.Addr().String()
	if out := mustRun(t, dir, "", "health", server+"/ready"); !strings.Contains(out, "/ready is ready") { // below a path, as behind a proxy
		t.Errorf("%q", out)
	}
	for _, c := range []struct {
		says string
		args []string
	}{
		{"503 Service Unavailable The database is away.", []string{server + "/away"}},
		{"302 Found", []string{server + "/moved"}},
		{"404 Not Found", []string{server}},
		{fmt.Sprint("no answer within ", healthTimeout), []string{server + "/silent"}},
		{"refused", []string{"--server=127.0.0.1:1"}},
		{"refused", []string{"--listen-addr=127.0.0.1:1"}},
		{"LISTEN_ADDR", []string{"--listen-addr=127.0.0.1:0"}},
		{"LISTEN_ADDR", []string{"--listen-addr=nonsense"}},
		{"want http", []string{"--server=ftp://127.0.0.1"}},
		{"want http", []string{"--server=http://"}},
		{"want http", []string{"--server=http://127.0.0.1:1/?x"}},
		{"user name", []string{"--server=http://ann:hunter2@127.0.0.1:1"}},
		{"TLS_CERT", []string{"--server=https://127.0.0.1:1", "--tls-cert=missing.pem"}},
		{"--nonsense", []string{"--nonsense"}},
	} {
		status, out, errOut := runProgram(t, dir, nil, "", append([]string{"health"}, c.args...)...)
		wantFailure(t, status, out, errOut, c.says)
		if strings.Contains(errOut, "hunter2") {
			t.Errorf("the error repeats a password: %q", errOut)
		}
	}
	wantFolder(t, dir, nil)
}

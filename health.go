package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// healthTimeout is how long a server may take to say that it is ready.
const healthTimeout = 5 * time.Second

// healthCommand asks a server whether it is ready, for what starts and watches it: an image without a shell has no curl.
type healthCommand struct {
	Config     kong.ConfigFlag `placeholder:"PATH" help:"The server's own file of configuration."`
	Server     string          `placeholder:"URL" help:"The server, such as https://chat.example.org. Default: the one on this machine, at the first LISTEN_ADDR."`
	ListenAddr string          `env:"LISTEN_ADDR" default:"127.0.0.1:8080" placeholder:"HOST:PORT,…" help:"Where the server on this machine listens."`
	TLSCert    string          `name:"tls-cert" env:"TLS_CERT" placeholder:"PATH" help:"The server's certificate, in PEM: the one on this machine speaks TLS, and another one may have it without an authority that this machine knows."`
	Autocert   string          `name:"autocert-domain" env:"AUTOCERT_DOMAIN" placeholder:"NAME,…" help:"The server on this machine speaks TLS by this key."`
}

func (c *healthCommand) Run(ctx context.Context, std stdio) error {
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{}, DisableKeepAlives: true}
	var server *url.URL
	var err error
	if c.Server != "" {
		if server, err = serverURL(c.Server); err == nil && c.TLSCert != "" {
			transport.TLSClientConfig.RootCAs, err = rootsWith(c.TLSCert)
		}
	} else {
		server, err = ownURL(c.ListenAddr, c.TLSCert != "" || c.Autocert != "")
		transport.Proxy = nil
		// The name in the certificate is that of the outside. Nothing that is sent or asked here is secret.
		transport.TLSClientConfig.InsecureSkipVerify = true // #nosec G402 -- as the line above says
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	if err := askReady(ctx, transport, server); err != nil {
		return fmt.Errorf("%s is not ready: %w", server, err)
	}
	_, err = fmt.Fprintf(std.out, "%s is ready.\n", server)
	return err
}

// serverURL reads HOST:PORT, or the address of a server with its scheme.
func serverURL(s string) (*url.URL, error) {
	if strings.Contains(s, "@") {
		return nil, errors.New("--server: the address must not hold a user name or a password") // and the error neither
	}
	if !strings.Contains(s, "://") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("--server: want http://HOST:PORT or https://HOST:PORT, not %q", s)
	}
	return u, nil
}

// ownURL is where a server with this LISTEN_ADDR can be asked.
func ownURL(listenAddr string, secure bool) (*url.URL, error) {
	addr, _, _ := strings.Cut(listenAddr, ",")
	host, port, err := net.SplitHostPort(strings.TrimSpace(addr))
	if err != nil || !isPort(port) || port == "0" {
		return nil, fmt.Errorf("LISTEN_ADDR: want HOST:PORT with the port that the server has, not %q", addr)
	}
	if ip := net.ParseIP(host); isWildcard(host) {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	scheme := "http"
	if secure {
		scheme = "https"
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, port)}, nil
}

// rootsWith is this machine's authorities and the certificates of a file.
func rootsWith(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("TLS_CERT: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("TLS_CERT: there is no certificate in %s", file)
	}
	return roots, nil
}

// askReady returns nil if the server says that it is ready, and else why it does not.
func askReady(ctx context.Context, transport http.RoundTripper, server *url.URL) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.JoinPath("readyz").String(), nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req) // no redirect: what sends elsewhere is not ready itself
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer within %s", healthTimeout)
	case err != nil:
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	var answer struct {
		Error string `json:"error"`
	}
	_ = json.NewDecoder(io.LimitReader(resp.Body, 1<<10)).Decode(&answer) // something else may answer there
	return errors.New(strings.TrimSpace(resp.Status + " " + answer.Error))
}

package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/mail"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
	"golang.org/x/net/idna"
)

const (
	// A domain that has no certificate yet asks for it again after retryFirst, then after twice as long, up to retryMost: an
	// authority refuses who asks too often, for longer and longer. The manager itself does not try within a minute.
	retryFirst = 2 * time.Minute
	retryMost  = time.Hour
	// renewalCheck is how often a certificate is looked at, whether it is being renewed.
	renewalCheck = 12 * time.Hour
)

// autocertConfig is AUTOCERT_DOMAIN and what belongs to it.
type autocertConfig struct {
	Domains   []string // in lower case, and ASCII; empty: no such certificates
	Email     string   // empty: none
	Directory string
	HTTPAddr  string // empty: off
}

// autocert checks the keys of AUTOCERT_…, beside the others of c.
func (s settings) autocert(c config, fail func(string, ...any), bad func(key, rule, value string)) (a autocertConfig) {
	a = autocertConfig{Email: s.AutocertEmail, Directory: cmp.Or(s.AutocertDirectory, autocert.DefaultACMEDirectory), HTTPAddr: cmp.Or(s.AutocertHTTPAddr, ":80")}
	if s.AutocertDomain != "" {
		for name := range strings.SplitSeq(s.AutocertDomain, ",") {
			name = strings.TrimSpace(name)
			domain, err := domainName(name)
			if err != nil {
				fail("AUTOCERT_DOMAIN: %q %v", name, err)
			}
			if !slices.Contains(a.Domains, domain) {
				a.Domains = append(a.Domains, domain)
			}
		}
	}
	for _, other := range []struct{ key, value string }{
		{"AUTOCERT_EMAIL", s.AutocertEmail}, {"AUTOCERT_DIRECTORY", s.AutocertDirectory}, {"AUTOCERT_HTTP_ADDR", s.AutocertHTTPAddr},
	} {
		if other.value != "" && s.AutocertDomain == "" {
			fail("%s: %q is set, but AUTOCERT_DOMAIN is not", other.key, other.value)
		}
	}
	if a.Domains != nil && c.TLSCert != "" {
		fail("AUTOCERT_DOMAIN: TLS_CERT is set too; set one of them")
	}
	if addr, err := mail.ParseAddress(a.Email); a.Email != "" && (err != nil || addr.Address != a.Email) {
		bad("AUTOCERT_EMAIL", "want an address such as ann@example.com", a.Email)
	}
	if u, err := url.Parse(a.Directory); err != nil || u.Scheme != "https" || u.Host == "" {
		bad("AUTOCERT_DIRECTORY", "want an https:// address", a.Directory)
	}
	if strings.EqualFold(a.HTTPAddr, "off") {
		a.HTTPAddr = ""
	} else if _, port, err := net.SplitHostPort(a.HTTPAddr); err != nil || !isPort(port) {
		bad("AUTOCERT_HTTP_ADDR", "want HOST:PORT or off", a.HTTPAddr)
	} else if a.Domains != nil && port != "0" && len(withoutCovered(append(slices.Clone(c.Listen), a.HTTPAddr))) == len(c.Listen) {
		fail("AUTOCERT_HTTP_ADDR: %s is an address of the chat too; the challenges need one of their own", a.HTTPAddr)
	}
	return a
}

// domainName is a name as it stands in a certificate, or an error that says what it is instead.
func domainName(name string) (string, error) {
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
		return "", errors.New("is an IP address: the certificate is for a name")
	}
	ascii, err := idna.Lookup.ToASCII(strings.TrimSuffix(name, "."))
	switch {
	case err != nil || len(ascii) > 253 || slices.ContainsFunc(strings.Split(ascii, "."), func(label string) bool { return label == "" || len(label) > 63 }):
		return "", errors.New("is no name of a server; want one such as chat.example.com, several by comma")
	case !strings.Contains(ascii, "."):
		return "", errors.New("is no name that the internet knows; want one such as chat.example.com")
	}
	return ascii, nil
}

// acmeCertificates are those of AUTOCERT_DOMAIN: got by ACME (RFC 8555), kept in the database, and renewed when a third of
// their time, or 30 days, is left. They are safe for concurrent use.
type acmeCertificates struct {
	manager *autocert.Manager
	domains []string
	log     *slog.Logger
	got     sync.Map // the domains that have one
}

func newACME(cfg autocertConfig, log *slog.Logger) *acmeCertificates {
	a := &acmeCertificates{domains: cfg.Domains, log: log}
	a.manager = &autocert.Manager{
		Prompt:     autocert.AcceptTOS, // OPERATING.md says so
		HostPolicy: a.allow,
		Email:      cfg.Email,
		Client:     &acme.Client{DirectoryURL: cfg.Directory, UserAgent: "grpcchatter"},
	}
	return a
}

// allow is a HostPolicy.
func (a *acmeCertificates) allow(_ context.Context, host string) error {
	if a.domain(host) == "" {
		return errors.New("AUTOCERT_DOMAIN does not have this name")
	}
	return nil
}

// domain returns the domain of AUTOCERT_DOMAIN that a host, perhaps with a port, is; empty if it is none of them.
func (a *acmeCertificates) domain(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if domain, err := domainName(host); err == nil && slices.Contains(a.domains, domain) {
		return domain
	}
	return ""
}

// hello is what makes the manager answer with a domain's certificate for ECDSA, which all clients of TLS 1.2 know: of two
// kinds, one could fail unseen.
func hello(domain string) *tls.ClientHelloInfo {
	return &tls.ClientHelloInfo{ServerName: domain, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
}

// get is a tls.Config's GetCertificate. It never makes the manager ask the authority: tend does. Who names no server gets the
// first domain's certificate.
func (a *acmeCertificates) get(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if slices.Equal(h.SupportedProtos, []string{acme.ALPNProto}) {
		return a.manager.GetCertificate(h) // the challenge tls-alpn-01 (RFC 8737)
	}
	domain := a.domain(cmp.Or(h.ServerName, a.domains[0]))
	if domain == "" {
		return nil, errors.New("AUTOCERT_DOMAIN does not have this name")
	}
	if _, ok := a.got.Load(domain); !ok {
		return nil, errors.New("there is no certificate yet")
	}
	return a.manager.GetCertificate(hello(domain))
}

// ends is when the first of the certificates does; zero while one is not there.
func (a *acmeCertificates) ends() (first time.Time) {
	for i, domain := range a.domains {
		cert, err := a.get(&tls.ClientHelloInfo{ServerName: domain})
		if err != nil {
			return time.Time{}
		}
		if end := cert.Leaf.NotAfter; i == 0 || end.Before(first) {
			first = end
		}
	}
	return first
}

// tend gets the certificate of a domain, from the database or the authority, and then looks now and then whether the manager
// has renewed it, until ctx ends.
func (a *acmeCertificates) tend(ctx context.Context, domain string) {
	for again := retryFirst; ; {
		type result struct {
			cert *tls.Certificate
			err  error
		}
		done := make(chan result, 1)
		go func() { // the manager takes no context, and up to 5 minutes: the end does not wait for it (certificateCache)
			cert, err := a.manager.GetCertificate(hello(domain))
			done <- result{cert, err}
		}()
		wait := renewalCheck
		select {
		case <-ctx.Done():
			return
		case r := <-done:
			_, before := a.got.Load(domain)
			if r.err == nil {
				a.got.Store(domain, true)
			}
			switch {
			case r.err != nil:
				wait, again = again, min(2*again, retryMost)
				a.log.Error("there is no certificate for a domain of AUTOCERT_DOMAIN", "domain", domain, "cause", r.err, "again_in", wait)
			case !before:
				a.log.Info("a certificate is used", "domain", domain, "until", r.cert.Leaf.NotAfter)
			case renewalLate(r.cert, time.Now()):
				a.log.Error("a certificate of AUTOCERT_DOMAIN is not being renewed: can the authority reach this server?", "domain", domain, "until", r.cert.Leaf.NotAfter)
			}
		}
		if pause(ctx, wait) != nil {
			return
		}
	}
}

// renewalLate tells whether less is left of a certificate than it has when it was tried to renew it for some time.
func renewalLate(cert *tls.Certificate, now time.Time) bool {
	whole := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
	return cert.Leaf.NotAfter.Sub(now) < min(whole/4, 25*24*time.Hour)
}

// handler answers without TLS, at AUTOCERT_HTTP_ADDR: the challenge http-01, and who should have come by https.
func (a *acmeCertificates) handler() http.Handler {
	challenge := a.manager.HTTPHandler(nil)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := withRequestID(r.Context(), r.Header.Get(requestIDHeader))
		w.Header().Set(requestIDHeader, requestIDOf(ctx))
		secure(w.Header())
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead
		switch {
		case reads && strings.HasPrefix(r.URL.Path, "/.well-known/acme-challenge/"):
			answer := &challengeAnswer{refusal: refusal{header: http.Header{}}}
			if challenge.ServeHTTP(answer, r); answer.code != 0 {
				writeError(ctx, a.log, w, errNoSuchPath)
				return
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			_, _ = w.Write(answer.body.Bytes()) // the authority is gone if this fails
		case reads:
			// At the usual port: the one that the internet has, whatever it is here. To no host but ours.
			to := url.URL{Scheme: "https", Host: cmp.Or(a.domain(r.Host), a.domains[0]), Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
			w.Header().Set("Location", to.String())
			w.WriteHeader(http.StatusMovedPermanently)
		default:
			writeError(ctx, a.log, w, errNeedsHTTPS)
		}
	})
}

// challengeAnswer keeps what the manager answers to a challenge.
type challengeAnswer struct {
	refusal
	body bytes.Buffer
}

func (a *challengeAnswer) Write(p []byte) (int, error) { return a.body.Write(p) }

// certificateCache keeps certificates, and the account's key, in the database, until ended is done: whom tend has left behind
// then must not write to a store that is being closed.
type certificateCache struct {
	store *store
	ended context.Context
}

func (c certificateCache) Get(ctx context.Context, name string) ([]byte, error) {
	if err := c.ended.Err(); err != nil {
		return nil, err
	}
	value, err := c.store.certificate(ctx, name)
	if errors.Is(err, errNotFound) {
		return nil, autocert.ErrCacheMiss
	} else if err != nil {
		return nil, fmt.Errorf("read the certificates: %w", err)
	}
	return value, nil
}

func (c certificateCache) Put(ctx context.Context, name string, value []byte) error {
	if err := c.ended.Err(); err != nil {
		return err
	}
	return c.store.putCertificate(ctx, name, value)
}

func (c certificateCache) Delete(ctx context.Context, name string) error {
	if err := c.ended.Err(); err != nil {
		return err
	}
	return c.store.deleteCertificate(ctx, name)
}

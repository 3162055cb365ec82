package main

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certCheck is how often a certificate's files are looked at, at most.
const certCheck = time.Second

// certificate is that of TLS_CERT and TLS_KEY. It is read again when one of the files changes, as by a renewal. It is safe
// for concurrent use.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu      sync.Mutex // guards the fields below
	cert    *tls.Certificate
	version [2]fileVersion
	checked time.Time
}

type fileVersion struct {
	changed time.Time
	size    int64
}

// loadCertificate reads a certificate and its key, both in PEM.
func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log, now: time.Now}
	if err := c.load(); err != nil {
		return nil, fmt.Errorf("TLS_CERT, TLS_KEY: %w", err)
	}
	return c, nil
}

// load reads the files, if they have changed. An error leaves the certificate as it is.
func (c *certificate) load() error {
	c.checked = c.now()
	var version [2]fileVersion
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		version[i] = fileVersion{info.ModTime(), info.Size()}
	}
	if version == c.version {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.cert, c.version = &cert, version
	return nil
}

// reload reads the files at once, whether they look changed or not. An error leaves the certificate as it is.
func (c *certificate) reload() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.version
	c.version = [2]fileVersion{}
	if err := c.load(); err != nil {
		c.version = before
		return fmt.Errorf("TLS_CERT, TLS_KEY: %w", err)
	}
	return nil
}

// get is a tls.Config's GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.now().Sub(c.checked) >= certCheck {
		before := c.cert
		if err := c.load(); err != nil {
			c.log.Error("the certificate cannot be read again: the old one is used", "cause", err)
		} else if c.cert != before {
			c.log.Info("the certificate was read again", "until", c.cert.Leaf.NotAfter)
		}
	}
	return c.cert, nil
}

// tlsConfig speaks HTTP/1.1 with who offers it, browsers and curl, and HTTP/2 with who offers nothing else: gRPC's clients.
func tlsConfig(get func(*tls.ClientHelloInfo) (*tls.Certificate, error), more ...string) *tls.Config {
	return &tls.Config{
		GetCertificate: get,
		NextProtos:     append([]string{"http/1.1", "h2"}, more...),
		MinVersion:     tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2; without those in CBC mode, which Go has by default too
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
			tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
		},
	}
}

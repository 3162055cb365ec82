package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"
)

const (
	// certCheck is how often a certificate's files are looked at.
	certCheck = time.Second
	// The log tells of a certificate that ends within endsSoon, and again each warnAgain: who renews by hand needs a while.
	endsSoon  = 14 * 24 * time.Hour
	warnAgain = 24 * time.Hour
)

// certificate is that of TLS_CERT and TLS_KEY. It is safe for concurrent use.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	loaded            atomic.Pointer[loadedCertificate]
}

// loadedCertificate is a certificate with what its files were like when it was read.
type loadedCertificate struct {
	cert  tls.Certificate
	files [2]fileVersion
}

type fileVersion struct {
	changed time.Time
	size    int64
}

// loadCertificate reads a certificate and its key, both in PEM.
func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	return c, c.reload()
}

// read reads the files, unless they are as they were before. An error leaves the certificate as it is.
func (c *certificate) read(before [2]fileVersion) (changed bool, err error) {
	var files [2]fileVersion
	for i, name := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(name)
		if err != nil {
			return false, fmt.Errorf("TLS_CERT, TLS_KEY: %w", err)
		}
		files[i] = fileVersion{info.ModTime(), info.Size()}
	}
	if files == before {
		return false, nil
	}
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return false, fmt.Errorf("TLS_CERT, TLS_KEY: %s and %s: %w", c.certFile, c.keyFile, err)
	}
	c.loaded.Store(&loadedCertificate{cert, files})
	return true, nil
}

// reload reads the files at once, whether they look changed or not. An error leaves the certificate as it is.
func (c *certificate) reload() error {
	_, err := c.read([2]fileVersion{})
	return err
}

// ends is when the certificate does.
func (c *certificate) ends() time.Time { return c.loaded.Load().cert.Leaf.NotAfter }

// warning is what the log says of the time of a certificate.
type warning struct {
	of  *loadedCertificate
	why string
	at  time.Time
}

// warn tells of a certificate that clients do not take, or soon will not, unless last has said so already within a day. It
// returns what was said last.
func (c *certificate) warn(last warning) warning {
	now := warning{of: c.loaded.Load(), at: time.Now()}
	leaf := now.of.cert.Leaf
	switch {
	case now.at.Before(leaf.NotBefore):
		now.why = "the certificate is not valid yet: clients refuse it"
	case now.at.After(leaf.NotAfter):
		now.why = "the certificate has expired: clients refuse it"
	case leaf.NotAfter.Sub(now.at) < endsSoon:
		now.why = "the certificate ends soon"
	}
	if now.why == "" || now.of == last.of && now.why == last.why && now.at.Sub(last.at) < warnAgain {
		return last
	}
	c.log.Warn(now.why, "file", c.certFile, "from", leaf.NotBefore, "until", leaf.NotAfter)
	return now
}

// tend reads the files again when one of them changes, as by a renewal, and warns of the certificate's end, until ctx ends.
func (c *certificate) tend(ctx context.Context) {
	told, warned := "", c.warn(warning{})
	for ; pause(ctx, certCheck) == nil; warned = c.warn(warned) {
		changed, err := c.read(c.loaded.Load().files)
		switch {
		case err == nil:
			told = ""
			if changed {
				c.log.Info("the certificate was read again", "until", c.loaded.Load().cert.Leaf.NotAfter)
			}
		case err.Error() != told:
			told = err.Error()
			c.log.Error("the certificate cannot be read again: the old one is used", "cause", err)
		}
	}
}

// get is a tls.Config's GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return &c.loaded.Load().cert, nil
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

package client

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// address is where a server listens. REST and gRPC share it.
type address struct {
	hostPort string
	tls      bool
}

// parseAddress reads "host:port", "http://host[:port]" and "https://host[:port]".
func parseAddress(s string) (address, error) {
	if strings.Contains(s, "@") {
		// The error must not repeat the password.
		return address{}, errors.New("client: the address must not hold a user name or a password")
	}
	a, err := splitAddress(s)
	if err != nil {
		return address{}, fmt.Errorf("client: address %q: %w", s, err)
	}
	return a, nil
}

func splitAddress(s string) (address, error) {
	if !strings.Contains(s, "://") {
		hostPort, err := checkHostPort(s)
		return address{hostPort: hostPort}, err
	}
	u, err := url.Parse(s)
	if err != nil {
		// A url.Error repeats the address; its cause is enough.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return address{}, err
	}
	port := u.Port()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return address{}, errors.New("the scheme must be http or https")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.ForceQuery, u.Fragment != "":
		return address{}, errors.New("nothing may follow the port")
	case port != "":
	case u.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	hostPort, err := checkHostPort(net.JoinHostPort(u.Hostname(), port))
	return address{hostPort: hostPort, tls: u.Scheme == "https"}, err
}

// checkHostPort returns s in the form that both dialers take.
func checkHostPort(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if e, ok := errors.AsType[*net.AddrError](err); ok {
			return "", errors.New(e.Err)
		}
		return "", err
	}
	if host == "" {
		return "", errors.New("the host is missing")
	}
	if strings.ContainsFunc(host, notInHost) {
		return "", errors.New("the host holds a character that no host name has")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", errors.New("the port must be a number from 1 to 65535")
	}
	return net.JoinHostPort(host, port), nil
}

func notInHost(c rune) bool {
	return c <= ' ' || c == 0x7f || strings.ContainsRune(`/\?#"<>[]{}|^`+"`", c)
}

// url returns the address of a REST route. What is no plain text in path has to be escaped; it stays as it is: two dots in it
// do not make another route of it.
func (a address) url(path string) string {
	scheme := "http"
	if a.tls {
		scheme = "https"
	}
	u := url.URL{Scheme: scheme, Host: a.hostPort}
	return u.String() + path
}

// target returns the address as grpc-go takes it: to be dialed as it is.
func (a address) target() string { return "passthrough:///" + url.PathEscape(a.hostPort) }

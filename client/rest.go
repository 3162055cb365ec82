package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// maxAnswer is how much of a REST answer is read, in bytes.
const maxAnswer = 64 << 10

// maxRetryAfter bounds what a Retry-After header may ask for.
const maxRetryAfter = time.Hour

// newHTTPClient returns a client for REST calls, which are rare: it keeps no connection open. It speaks
// HTTP/1.1, and follows no redirect, for a password would follow too.
func newHTTPClient(cfg *tls.Config) *http.Client {
	cfg = cfg.Clone()
	if cfg != nil {
		cfg.NextProtos = nil
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:        cfg,
			TLSHandshakeTimeout:    dialTimeout,
			DisableKeepAlives:      true,
			Protocols:              protocols,
			MaxResponseHeaderBytes: maxAnswer,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// rest calls a REST route, with a token if there is one, and with in as JSON unless it is nil. It reads the answer into out.
func (c *Client) rest(ctx context.Context, method, path, token string, in, out any) error {
	ctx, cancel := c.callContext(ctx, c.ctx)
	defer cancel()
	return callError(ctx, c.ctx, c.exchange(ctx, method, path, token, in, out))
}

func (c *Client) exchange(ctx context.Context, method, path, token string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, c.addr.url(path), bytes.NewReader(body))
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fromHTTP(resp.StatusCode, resp.Header.Get("Retry-After"), answer, time.Now())
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("client: %s %s: the answer is not the expected JSON: %w", method, path, err)
	}
	return nil
}

// segment returns s as one segment of a path. The server does not mind the space, and nobody on the way takes the segment
// for none: names of old accounts can be just dots.
func segment(s string) string {
	switch s {
	case "", ".", "..":
		s += " "
	}
	return url.PathEscape(s)
}

// fromHTTP turns a REST answer that is not 200 into an *Error. What does not come from the server itself,
// but from a proxy before it, need not be JSON.
func fromHTTP(status int, retryAfter string, body []byte, now time.Time) error {
	var answer struct {
		Error string `json:"error"`
		Code  string `json:"code"`
	}
	if json.Unmarshal(body, &answer) != nil || answer.Code == "" {
		answer.Error = "the server answered " + strconv.Itoa(status) + " " + http.StatusText(status)
		answer.Code = codeOfHTTP(status)
	}
	return &Error{Code: answer.Code, Message: answer.Error, RetryAfter: parseRetryAfter(retryAfter, now)}
}

// codeOfHTTP returns a code for an answer that has none.
func codeOfHTTP(status int) string {
	switch status {
	case http.StatusTooManyRequests:
		return "RATE_LIMITED"
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return "UNAVAILABLE"
	}
	return "HTTP_" + strconv.Itoa(status)
}

// parseRetryAfter reads a Retry-After header: seconds, or a date.
func parseRetryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		return min(time.Duration(n)*time.Second, maxRetryAfter)
	}
	if t, err := http.ParseTime(s); err == nil {
		return min(max(0, t.Sub(now)), maxRetryAfter)
	}
	return 0
}

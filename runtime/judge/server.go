package judge

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// A server and its clients speak in lines of JSON: a connection begins with the
// server's greeting; then the client sends a Job and the server a reply, any
// number of times.

// greeting is the server's first line.
type greeting struct {
	Confinement Confinement `json:"confinement"`
	// Error says why no program can be run.
	Error string `json:"error,omitempty"`
}

// reply is the server's answer to a Job.
type reply struct {
	Result Result `json:"result"`
	// Error says why the job could not be run.
	Error string `json:"error,omitempty"`
}

// Bounds of a connection.
const (
	// maxLineBytes bounds a Job in JSON, where a byte may take six.
	maxLineBytes = 6*maxJobBytes + 4096
	// maxConnections bounds how many clients are listened to at a time.
	maxConnections = 64
	// requestTime bounds how long a client may take to send a job.
	requestTime = time.Minute
	// maxTalks bounds how many jobs a client has at the server at a time: the rest
	// wait here, for as long as it takes.
	maxTalks = 8
	// replyTime bounds how long a client waits for a job. It is beyond what maxTalks
	// jobs take one after another, each for all of its time.
	replyTime = 20 * time.Minute
	// writeTime bounds how long a client may take to read a line.
	writeTime = time.Minute
)

// Serve runs the jobs of clients by runner until ctx ends. It closes the
// listener.
func Serve(ctx context.Context, l net.Listener, runner Runner) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var handlers sync.WaitGroup
	defer handlers.Wait()
	slots := make(chan struct{}, maxConnections)
	for {
		slots <- struct{}{}
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("listening for programs: %w", err), l.Close())
		}
		handlers.Go(func() {
			defer func() { <-slots }()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			// Whatever goes wrong between the two, the client sees its connection end.
			_ = attend(ctx, conn, runner)
			_ = conn.Close()
		})
	}
}

// attend serves one client.
func attend(ctx context.Context, conn net.Conn, runner Runner) error {
	var hello greeting
	var err error
	if hello.Confinement, err = runner.Confinement(ctx); err != nil {
		hello.Error = err.Error()
	}
	out := json.NewEncoder(conn)
	say := func(line any) error {
		if err := conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
			return err
		}
		return out.Encode(line)
	}
	if err := say(hello); err != nil || hello.Error != "" {
		return err
	}
	in := bufio.NewReader(conn)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(requestTime)); err != nil {
			return err
		}
		line, err := readLine(in, maxLineBytes)
		if err != nil {
			return err
		}
		var job Job
		if err := json.Unmarshal(line, &job); err != nil {
			return err
		}
		var r reply
		if r.Result, err = runner.Run(ctx, job); err != nil {
			r.Error = err.Error()
		}
		if err := say(r); err != nil {
			return err
		}
	}
}

// Client has a server run jobs.
type Client struct {
	socket string
	wait   time.Duration
	talks  chan struct{} // a token for each job at the server
}

// tries is how often a job is given to a worker or a server that ends while it
// runs it.
const tries = 3

// pause lies between two attempts to reach a server.
const pause = 200 * time.Millisecond

// NewClient returns a client of the server that listens on a unix socket; wait
// is how long the server may take to come, or to come again.
func NewClient(socket string, wait time.Duration) *Client {
	return &Client{socket: socket, wait: wait, talks: make(chan struct{}, maxTalks)}
}

// Run has the server run one job.
func (c *Client) Run(ctx context.Context, job Job) (Result, error) {
	line, err := json.Marshal(job)
	if err != nil {
		return Result{}, fmt.Errorf("encoding a job: %w", err)
	}
	if len(line) >= maxLineBytes {
		return Result{Why: ErrTooLarge.Error()}, nil
	}
	select {
	case c.talks <- struct{}{}:
		defer func() { <-c.talks }()
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
	var end error
	for range tries {
		var r reply
		ended := false
		err := c.talk(ctx, func(conn net.Conn, in *bufio.Reader, _ greeting) error {
			if _, err := conn.Write(append(line, '\n')); err != nil {
				ended = true
				return err
			}
			answer, err := readLine(in, maxReplyBytes)
			if err != nil {
				ended = !errors.Is(err, os.ErrDeadlineExceeded)
				return err
			}
			return json.Unmarshal(answer, &r)
		})
		switch {
		case ctx.Err() != nil:
			return Result{}, ctx.Err()
		case ended:
			end = err
		case err != nil:
			return Result{}, err
		case r.Error != "":
			return Result{}, errors.New(r.Error)
		default:
			return r.Result, nil
		}
	}
	// What it ran at the time may have nothing to do with that: other programs ran
	// beside it.
	return Result{}, fmt.Errorf("the judge at %s ended while it ran a program, %d times (in a pod, look at the container judge): %w",
		c.socket, tries, end)
}

// Confinement asks the server.
func (c *Client) Confinement(ctx context.Context) (confinement Confinement, err error) {
	err = c.talk(ctx, func(_ net.Conn, _ *bufio.Reader, hello greeting) error {
		confinement = hello.Confinement
		return nil
	})
	return confinement, err
}

// Close does nothing: a client keeps no connection.
func (c *Client) Close() error { return nil }

// talk connects to the server and has use speak to it after its greeting.
func (c *Client) talk(ctx context.Context, use func(net.Conn, *bufio.Reader, greeting) error) error {
	waiting, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	for {
		conn, in, hello, err := c.connect(waiting)
		if err == nil {
			defer conn.Close() //nolint:errcheck // nothing is left to be said
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			if hello.Error != "" {
				return fmt.Errorf("the judge at %s runs no programs: %s", c.socket, hello.Error)
			}
			return use(conn, in, hello)
		}
		select {
		case <-time.After(pause):
		case <-waiting.Done():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("the judge did not answer at %s within %v (in a pod, look at the container judge): %w", c.socket, c.wait, err)
		}
	}
}

func (c *Client) connect(ctx context.Context) (net.Conn, *bufio.Reader, greeting, error) {
	var hello greeting
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, nil, hello, err
	}
	in := bufio.NewReader(conn)
	line, err := []byte(nil), conn.SetDeadline(time.Now().Add(replyTime))
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	if err == nil {
		line, err = readLine(in, maxReplyBytes)
	}
	if err == nil {
		err = json.Unmarshal(line, &hello)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, nil, hello, fmt.Errorf("waiting for the judge's greeting: %w", err)
	}
	return conn, in, hello, nil
}

package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/transformersquared/operator/runtime/contract"
)

// roleVariable names the role that this program plays within the cluster's network instead of
// running the suite. A role ends when its standard input does, which it does with the suite.
const roleVariable = "T2_CHAOS_ROLE"

// Roles.
const (
	roleClients = "clients"
	roleSource  = "source"
	roleNames   = "names"
	roleShows   = "shows"
)

func play(role string, args []string) error {
	set := flag.NewFlagSet(role, flag.ContinueOnError)
	address := set.String("address", "", "where to listen, or to send requests")
	name := set.String("name", "", "the policy, or the name that is known")
	folder := set.String("folder", "", "what is served")
	late := set.Duration("late", 0, "how long a name server takes for an answer")
	if err := set.Parse(args); err != nil {
		return err
	}
	switch role {
	case roleClients:
		return clients(*address, *name)
	case roleSource:
		return source(*address, *folder)
	case roleNames:
		return names(*address, *name, *late)
	case roleShows:
		return shows(context.Background(), *address)
	}
	return fmt.Errorf("no role %q", role)
}

// asked is one request, as a line of the role's output: a line when it is sent, and one more,
// with Received, when it was answered or failed.
type asked struct {
	ID, Client     string
	Sent, Received time.Time
	Digest, Error  string
}

const (
	// manyClients send one request after the other, each by a connection of its own, as most
	// clients are balanced by connections.
	manyClients = 4
	// impatience is how long a client waits for an answer.
	impatience = 8 * time.Second
	// pauseBetween bounds how many requests are sent.
	pauseBetween = 100 * time.Millisecond
)

// clients ask a policy until their input ends.
func clients(address, policy string) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	body, err := json.Marshal(map[string]any{
		"model": policy, "temperature": 0, "max_tokens": 8, "messages": []map[string]string{{"role": "user", "content": "What is 3 plus 4?"}},
	})
	if err != nil {
		return err
	}
	var mu sync.Mutex
	lines := json.NewEncoder(os.Stdout)
	tell := func(a asked) error {
		mu.Lock()
		defer mu.Unlock()
		return lines.Encode(a)
	}
	client := &http.Client{Timeout: impatience, Transport: &http.Transport{DisableKeepAlives: true}}
	var group sync.WaitGroup
	failed := make(chan error, manyClients)
	for c := range manyClients {
		group.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				a := asked{ID: fmt.Sprintf("%d/%d", c, n), Client: fmt.Sprint(c), Sent: time.Now()}
				if err := tell(a); err != nil {
					failed <- err
					return
				}
				digest, err := ask(client, "http://"+address+contract.PathChatCompletions, body)
				a.Received, a.Digest = time.Now(), digest
				if err != nil {
					a.Error = err.Error()
				}
				if err := tell(a); err != nil {
					failed <- err
					return
				}
				select {
				case <-ctx.Done():
				case <-time.After(pauseBetween):
				}
			}
		})
	}
	group.Wait()
	close(failed)
	return <-failed
}

// ask sends one request and returns the digest of the set that answered.
func ask(client *http.Client, url string, body []byte) (string, error) {
	// One that is under way when the clients end is waited for: it is not lost.
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", response.Status, text)
	}
	var reply struct{ T2 contract.Adaptation }
	if err := json.Unmarshal(text, &reply); err != nil {
		return "", err
	}
	return reply.T2.ExpertSetDigest, nil
}

// source serves a folder as a model's source. A line "fail" on its input makes it answer
// everything with 500, a line "serve" as it should. It fails at first, and prints each path
// that it answers, with the status.
func source(address, folder string) error {
	var serves atomic.Bool
	files := http.FileServer(http.Dir(folder))
	server := &http.Server{Addr: address, ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if serves.Load() {
			files.ServeHTTP(w, r)
			return
		}
		fmt.Println(http.StatusInternalServerError, r.URL.Path)
		http.Error(w, "the disk is on fire", http.StatusInternalServerError)
	})}
	go func() {
		orders := bufio.NewScanner(os.Stdin)
		for orders.Scan() {
			serves.Store(orders.Text() == "serve")
		}
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// names is a name server that knows one name, whose address is its own, until its input ends. It
// takes its time for each answer, and prints a line once it is given.
func names(address, known string, late time.Duration) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	socket, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", address)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = socket.Close()
	}()
	query := make([]byte, 512)
	for {
		n, from, err := socket.ReadFrom(query)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		answer, err := resolve(query[:n], known, at.Addr())
		if err != nil {
			continue // Whoever sent that gets no answer.
		}
		time.AfterFunc(late, func() {
			if _, err := socket.WriteTo(answer, from); err == nil {
				fmt.Println("answered")
			}
		})
	}
}

// resolve answers a query: the one name has this address, and no other exists.
func resolve(query []byte, known string, address netip.Addr) ([]byte, error) {
	var parser dnsmessage.Parser
	header, err := parser.Start(query)
	if err != nil {
		return nil, err
	}
	question, err := parser.Question()
	if err != nil {
		return nil, err
	}
	answer := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true, RecursionDesired: header.RecursionDesired},
		Questions: []dnsmessage.Question{question},
	}
	switch {
	case !strings.EqualFold(question.Name.String(), known+"."):
		answer.RCode = dnsmessage.RCodeNameError
	case question.Type == dnsmessage.TypeA:
		answer.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 1},
			Body:   &dnsmessage.AResource{A: address.As4()},
		}}
	}
	return answer.Pack()
}

// Command probe is what the integration test runs in pods: it writes to a volume, serves what it finds there, or fetches
// what another pod serves.
package main

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want: write FOLDER, serve FOLDER, or get URL")
	}
	switch args[0] {
	case "write":
		file := filepath.Join(args[1], "message")
		if err := os.WriteFile(file, []byte("hello\n"), 0o644); err != nil {
			return err
		}
		fmt.Printf("wrote as user %d\n", os.Getuid())
		return nil
	case "get":
		client := &http.Client{Timeout: 10 * time.Second}
		response, err := client.Get(args[1])
		if err != nil {
			return err
		}
		defer response.Body.Close()
		_, err = io.Copy(os.Stdout, response.Body)
		return err
	case "serve":
		log.Print("serving")
		return http.ListenAndServe(":8080", http.FileServer(http.Dir(args[1])))
	}
	return fmt.Errorf("unknown verb %q", args[0])
}

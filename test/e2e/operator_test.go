package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func operator() {
	// forward makes the operator's metrics reachable and returns their address.
	forward := func(ctx SpecContext) string {
		GinkgoHelper()
		cmd := exec.CommandContext(ctx, os.Getenv("KUBECTL"), "-n", systemNamespace, "port-forward", "service/t2-metrics", ":8443")
		out, err := cmd.StdoutPipe()
		Expect(err).NotTo(HaveOccurred())
		Expect(cmd.Start()).To(Succeed())
		DeferCleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		line, err := bufio.NewReader(out).ReadString('\n')
		Expect(err).NotTo(HaveOccurred())
		var port int
		_, err = fmt.Sscanf(line, "Forwarding from 127.0.0.1:%d -> 8443", &port)
		Expect(err).NotTo(HaveOccurred(), line)
		return fmt.Sprintf("https://127.0.0.1:%d/metrics", port)
	}

	// The operator makes its certificate itself.
	scraper := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	metrics := func(ctx SpecContext, url, token string) (int, string) {
		GinkgoHelper()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		Expect(err).NotTo(HaveOccurred())
		if token != "" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := scraper.Do(request)
		Expect(err).NotTo(HaveOccurred())
		defer func() { Expect(response.Body.Close()).To(Succeed()) }()
		body, err := io.ReadAll(response.Body)
		Expect(err).NotTo(HaveOccurred())
		return response.StatusCode, string(body)
	}

	It("serves metrics to those who may read them, and to nobody else", func(ctx SpecContext) {
		tokens := map[string]string{}
		for _, account := range []string{"scraper", "stranger"} {
			kubectl(ctx, "", "-n", systemNamespace, "create", "serviceaccount", account)
			DeferCleanup(func(ctx SpecContext) {
				kubectl(ctx, "", "-n", systemNamespace, "delete", "serviceaccount", account)
			})
			tokens[account] = strings.TrimSpace(kubectl(ctx, "", "-n", systemNamespace, "create", "token", account))
		}
		kubectl(ctx, "", "create", "clusterrolebinding", "scraper", "--clusterrole=t2-metrics-reader",
			fmt.Sprintf("--serviceaccount=%s:scraper", systemNamespace))
		DeferCleanup(func(ctx SpecContext) { kubectl(ctx, "", "delete", "clusterrolebinding", "scraper") })

		kubectl(ctx, "", "-n", systemNamespace, "rollout", "status", "deployment", "--timeout=60s")
		url := forward(ctx)
		status, body := metrics(ctx, url, "")
		Expect(status).To(Equal(http.StatusUnauthorized), body)
		status, body = metrics(ctx, url, tokens["stranger"])
		Expect(status).To(Equal(http.StatusForbidden), body)
		// Ready before it leads, the operator has no controllers to count for at
		// first; and what the API server refuses, the operator remembers a while.
		Eventually(func(g Gomega) {
			status, body := metrics(ctx, url, tokens["scraper"])
			g.Expect(status).To(Equal(http.StatusOK), body)
			g.Expect(body).To(ContainSubstring("controller_runtime_reconcile_total"))
		}).Should(Succeed())
	})

	It("leads by a Lease", func(ctx SpecContext) {
		var lease coordinationv1.Lease
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: "operator.transformersquared.dev"}, &lease)).To(Succeed())
			g.Expect(lease.Spec.HolderIdentity).To(HaveValue(HavePrefix("t2-controller-manager-")))
		}).Should(Succeed())
	})
}

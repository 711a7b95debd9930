# Two commands for a newcomer: `make demo` and `make test`. Both do all set-up.
# `make help` lists the rest.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Build with the patched Go that go.mod names, also where the environment says
# "local": the standard library's vulnerabilities are in what we ship.
export GOTOOLCHAIN := auto

BIN      := $(CURDIR)/bin
CLUSTER  := $(BIN)/cluster
T2C      := $(BIN)/t2cluster
TAG      ?= dev
# Where images are pushed for a cluster that is not ours; ours imports them.
IMG_REGISTRY ?=
IMG_BASE := $(if $(IMG_REGISTRY),$(IMG_REGISTRY),transformersquared.dev)
IMAGES   := manager t2 judge demo-assets
# KUBECONFIG given on the command line means "use that cluster"; one that only
# stands in the environment does not, so that nobody's cluster is used by accident.
EXTERNAL := $(if $(filter command line,$(origin KUBECONFIG)),yes)
# A cluster of yours comes with a kubectl of yours; ours are built together.
KUBECTL := $(if $(EXTERNAL),kubectl,$(CLUSTER)/kubectl)
DEMO_CLUSTER ?= t2
E2E_CLUSTER  ?= t2-e2e
CHAOS_CLUSTER ?= t2-chaos
DATA := $(if $(T2_SHARED_DATA),$(T2_SHARED_DATA),$(wildcard $(abspath $(CURDIR)/../shared/data)))

# Says what a long command is and, while it lasts, that it still runs.
ALIVE  := $(CURDIR)/hack/alive.sh
# Helm, pinned in a module of its own, renders and installs the chart.
HELM   := $(BIN)/helm
GOTOOL := go -C $(CURDIR)/hack/tools tool
BUILD_T2C := $(ALIVE) "the cluster's tool: building" "seconds, the first time 1 minute" go -C hack/cluster build -o $(T2C) ./t2cluster
DEBS   := runc containernetworking-plugins iptables iproute2 conntrack qemu-user-static python3-minimal libpython3-stdlib g++ $(if $(shell command -v node && command -v npm),,nodejs npm)
# Clients for Node, which the API is tested with: OpenAI's, and five that agents are made with.
NODE_CLIENT := test/clients/node

##@ Main
.PHONY: help
help: ## Print the targets.
	@awk 'BEGIN{FS=":.*##"} /^##@/{printf "\n%s\n",substr($$0,5)} /^[a-zA-Z0-9_-]+:.*##/{printf "  %-15s %s\n",$$1,$$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(if $(EXTERNAL),need-kubectl,setup cluster-up) images ## Set up everything and run the whole chain on a local cluster (or on KUBECONFIG=…).
	@$(MAKE) --no-print-directory load-images CLUSTER_NAME=$(DEMO_CLUSTER)
	@$(ALIVE) "the demo's program: building" "seconds, the first time 1 minute" go build -o $(BIN)/demo ./hack/demo
	@KUBECONFIG=$(if $(EXTERNAL),$(KUBECONFIG),$$($(T2C) kubeconfig --name $(DEMO_CLUSTER))) \
	  $(BIN)/demo --kubectl $(KUBECTL) --t2 $(BIN)/t2 --images $(IMG_BASE) --tag $(TAG) $(if $(EXTERNAL),--external)

.PHONY: need-kubectl
need-kubectl:
	@command -v $(KUBECTL) >/dev/null || { echo "demo: KUBECONFIG=… needs kubectl on PATH" >&2; exit 1; }
	@[ -n "$(IMG_REGISTRY)" ] || { echo "demo: KUBECONFIG=… needs IMG_REGISTRY=…, a registry that the cluster pulls from and you may push to" >&2; exit 1; }

.PHONY: demo-down
demo-down: ## Remove the demo's cluster and everything it left on this machine.
	@[ -x $(T2C) ] || $(BUILD_T2C)
	@$(T2C) down --name $(DEMO_CLUSTER)

.PHONY: test
test: setup lint unit monitoring arm64 test-cuda cluster-test chart-test envtest e2e chaos-short ## Set up everything and run every layer of tests.

##@ Layers of tests
# How `make build` compiles. What is checked and tested without the race detector is compiled
# alike, so that all packages are compiled once for both.
STATIC := CGO_ENABLED=0 GOFLAGS="$$(go env GOFLAGS) -trimpath"
# Accesses to memory within gonum are not watched, which would make its loops slower by
# fourteen: each of its callers gives it arrays that no other goroutine has. All that calls
# it is watched.
RACE := -race -gcflags='gonum.org/v1/gonum/...=-race=false'
# Packages whose tests ask for testing.Short: the race detector slows them down by twenty.
LONG := ./runtime/backend/cpu ./runtime/constrain

.PHONY: unit
unit: $(NODE_CLIENT)/node_modules ## Unit tests, goldens, fuzz corpora and the import boundaries, with the race detector.
	@echo "==> unit tests (race detector)"
	T2_SHARED_DATA=$(DATA) T2_NODE_CLIENT=$(CURDIR)/$(NODE_CLIENT) go test $(RACE) -short -timeout 20m $$(go list ./... | grep -v -e /test/envtest -e /test/e2e)
	@echo "==> what -short made shorter there: every path of instructions, a thousand random schemas, 200 calls of tools, 5000 requests at once"
	$(STATIC) T2_SHARED_DATA=$(DATA) go test -timeout 20m $(LONG)
	$(STATIC) go test -run 'TestDemandedCallsAreMadeAndValidate|TestSoak' ./runtime/server ./runtime/engine

.PHONY: soak
soak: ## What takes long of the faults: sets exchanged each second, candidates, ten times the load (T2_SOAK=10m each), every moment of a full disk, more flipped bits.
	T2_SOAK=$(or $(T2_SOAK),10m) $(STATIC) go test -count=1 -v -timeout 90m -run 'TestNoRequestIsLostInASwap|TestNothingIsLostWhileCandidates|TestTenTimesWhatAServerCanDo' ./runtime/server
	$(STATIC) go test -count=1 -v -timeout 30m -run 'TestJobsOnADisk' ./runtime/cli
	$(STATIC) go test -count=1 -v -timeout 30m ./test/faults

.PHONY: monitoring
monitoring: ## Alerts and dashboards, by Prometheus' own tool and the types of Prometheus' operator and Grafana.
	@echo "==> alerts and dashboards"
	hack/monitoring/prometheus.sh $(BIN)
	$(STATIC) PROMTOOL=$(BIN)/promtool go -C hack/monitoring test ./...

.PHONY: arm64
arm64: ## The numeric core and the engine on emulated arm64, where all is plain Go.
	@echo "==> numeric core on arm64 (emulated)"
	T2_SHARED_DATA=$(DATA) GOARCH=arm64 CGO_ENABLED=0 go test -exec qemu-aarch64-static -timeout 20m \
	  ./runtime/backend/... ./runtime/tensor ./runtime/checkpoint ./runtime/sample ./runtime/model ./runtime/svd ./runtime/expert ./runtime/engine ./runtime/tokenizer/...

$(NODE_CLIENT)/node_modules: $(NODE_CLIENT)/package-lock.json
	@echo "==> Node packages: installing what $(NODE_CLIENT)/package-lock.json pins (325 MB, two minutes)"
	@cd $(NODE_CLIENT) && npm ci --silent && touch node_modules

.PHONY: cluster-test
cluster-test: cluster-bin ## The local cluster itself: two nodes, real workloads, killed half-way, nothing left.
	@echo "==> the local cluster"
	T2CLUSTER_BIN=$(CLUSTER) go -C hack/cluster test -count=1 -timeout 10m ./t2cluster/...
	CGO_ENABLED=0 go -C hack/cluster/kube test ./softgpu

.PHONY: helm
helm:
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 GOFLAGS="$$(go env GOFLAGS) -trimpath" $(ALIVE) "Helm: building" "seconds, the first time 3 minutes" \
	  go -C hack/gitops build -ldflags '-s -w' -o $(HELM) helm.sh/helm/v4/cmd/helm

# cosign signs releases and makes goldens. No test needs it.
COSIGN_VERSION := v3.1.3
.PHONY: cosign
cosign: ## Build cosign, which signs releases: bin/cosign.
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 GOBIN=$(BIN) GOFLAGS=-trimpath $(ALIVE) "cosign $(COSIGN_VERSION): building" "seconds, the first time 5 minutes" \
	  go install -ldflags '-s -w' github.com/sigstore/cosign/v3/cmd/cosign@$(COSIGN_VERSION)

.PHONY: chart-test
chart-test: cluster-bin helm ## The Helm chart, the overlays, and what Argo CD and kstatus make of our objects (CHARTFLAGS=-update).
	@echo "==> the chart and the overlays"
	$(STATIC) HELM=$(HELM) KUBECTL=$(CLUSTER)/kubectl KUBEBUILDER_ASSETS=$(CLUSTER) go test -count=1 ./test/chart $(CHARTFLAGS)
	@echo "==> Argo CD's health and kstatus"
	$(STATIC) go -C hack/gitops test ./...

.PHONY: envtest
envtest: cluster-bin ## Controllers against a real API server.
	@echo "==> controllers against a real API server"
	@go build -o $(BIN)/ginkgo github.com/onsi/ginkgo/v2/ginkgo
	KUBEBUILDER_ASSETS=$(CLUSTER) $(BIN)/ginkgo run --procs=2 $(RACE) --timeout=30m ./test/envtest
	KUBEBUILDER_ASSETS=$(CLUSTER) go test $(RACE) -timeout 15m ./test/envtest/newcomer

.PHONY: scale
scale: cluster-bin ## A thousand experts and fifty policies against a real API server (T2_SCALE=1000): calls, writes, memory.
	T2_SCALE=$(or $(T2_SCALE),1000) KUBEBUILDER_ASSETS=$(CLUSTER) go test -count=1 -v -timeout 60m ./test/envtest -ginkgo.v -ginkgo.focus="Many experts"

# Gives the e2e cluster's node GPUs: the software driver, mounted by a device plugin.
SOFTGPU = $(T2C) exec --name $(E2E_CLUSTER) $(BIN)/softgpu --driver $(BIN)/softcuda/libcuda.so.1 --gpus 2 --env SOFTCUDA_MEMORY=1073741824

.PHONY: softgpu
softgpu: softcuda
	@CGO_ENABLED=0 $(ALIVE) "the software driver's device plugin: building" "seconds" go -C hack/cluster/kube build -buildvcs=false -o $(BIN)/softgpu ./softgpu

# What HorizontalPodAutoscalers read metrics by, in the e2e cluster.
.PHONY: prometheus
prometheus:
	@hack/monitoring/prometheus.sh $(BIN)
	@CGO_ENABLED=0 GOFLAGS="$$(go env GOFLAGS) -trimpath" $(ALIVE) "prometheus-adapter: building" "seconds, the first time 2 minutes" \
	  go -C hack/monitoring/adapter build -ldflags '-s -w' -o $(BIN)/prometheus-adapter sigs.k8s.io/prometheus-adapter/cmd/adapter

.PHONY: e2e
e2e: cluster-bin images image-cuda softgpu helm kubectl-t2 prometheus ## The whole chain on a local cluster of its own (E2EFLAGS="-ginkgo.focus=GPUs" …).
	@echo "==> end to end on a local cluster"
	@$(T2C) down --name $(E2E_CLUSTER)
	@trap '$(T2C) down --name $(E2E_CLUSTER)' EXIT; \
	  $(T2C) up --name $(E2E_CLUSTER) --bin $(CLUSTER); \
	  $(MAKE) --no-print-directory load-images CLUSTER_NAME=$(E2E_CLUSTER) IMAGES="$(IMAGES) t2-cuda"; \
	  KUBECONFIG=$$($(T2C) kubeconfig --name $(E2E_CLUSTER)) KUBECTL=$(KUBECTL) T2=$(BIN)/t2 KUBECTL_T2=$(BIN)/kubectl-t2 SOFTGPU="$(SOFTGPU)" HELM=$(HELM) \
	    T2_INSIDE="$(T2C) exec --name $(E2E_CLUSTER)" PROMETHEUS=$(BIN)/prometheus PROMETHEUS_ADAPTER=$(BIN)/prometheus-adapter \
	    $(STATIC) go test -count=1 -p 1 -timeout 35m ./test/e2e ./test/e2e/chart -v -ginkgo.v $(E2EFLAGS)

.PHONY: e2e-chart
e2e-chart: cluster-bin images helm ## Install, upgrade and uninstall operator and samples with Helm, on a fresh local cluster.
	@echo "==> the chart on a local cluster"
	@$(T2C) down --name $(E2E_CLUSTER)
	@trap '$(T2C) down --name $(E2E_CLUSTER)' EXIT; \
	  $(T2C) up --name $(E2E_CLUSTER) --bin $(CLUSTER); \
	  $(MAKE) --no-print-directory load-images CLUSTER_NAME=$(E2E_CLUSTER); \
	  KUBECONFIG=$$($(T2C) kubeconfig --name $(E2E_CLUSTER)) KUBECTL=$(KUBECTL) HELM=$(HELM) \
	    $(STATIC) go test -count=1 -timeout 50m ./test/e2e/chart -v -ginkgo.v

# The commit that `make e2e-upgrade` upgrades from and goes back to: one version before this one.
UPGRADE_FROM ?= 2c3d720438e784cbcb412ff29e137db74a4eb6bd
BEFORE := $(BIN)/upgrade-from

.PHONY: e2e-upgrade
e2e-upgrade: cluster-bin images ## Upgrade from the version before and go back, under requests, on a fresh local cluster (UPGRADE_FROM=COMMIT).
	@hack/upgrade-from.sh $(UPGRADE_FROM) $(BEFORE) $(T2C)
	@echo "==> upgrades on a local cluster"
	@$(T2C) down --name $(E2E_CLUSTER)
	@trap '$(T2C) down --name $(E2E_CLUSTER)' EXIT; \
	  $(T2C) up --name $(E2E_CLUSTER) --bin $(CLUSTER); \
	  $(T2C) load-image --name $(E2E_CLUSTER) $(BEFORE)/manager.tar $(BEFORE)/t2.tar $(BIN)/images/manager.tar $(BIN)/images/t2.tar $(BIN)/images/demo-assets.tar; \
	  KUBECONFIG=$$($(T2C) kubeconfig --name $(E2E_CLUSTER)) KUBECTL=$(KUBECTL) T2_UPGRADE_FROM=$(BEFORE) T2_INSIDE="$(T2C) exec --name $(E2E_CLUSTER)" \
	    $(STATIC) go test -count=1 -timeout 50m ./test/e2e/upgrade -v -ginkgo.v $(E2EFLAGS)

.PHONY: chaos
chaos: cluster-bin images ## Faults on a local cluster of three nodes: pods, nodes, the control plane, sources (CHAOSFLAGS="-ginkgo.label-filter=short" …).
	@echo "==> faults on a local cluster of three nodes"
	@$(T2C) down --name $(CHAOS_CLUSTER)
	@trap '$(T2C) down --name $(CHAOS_CLUSTER)' EXIT; \
	  $(T2C) up --name $(CHAOS_CLUSTER) --bin $(CLUSTER) --nodes 3 --impatient; \
	  $(MAKE) --no-print-directory load-images CLUSTER_NAME=$(CHAOS_CLUSTER); \
	  KUBECONFIG=$$($(T2C) kubeconfig --name $(CHAOS_CLUSTER)) KUBECTL=$(KUBECTL) T2CLUSTER=$(T2C) CLUSTER_BIN=$(CLUSTER) CHAOS_CLUSTER=$(CHAOS_CLUSTER) \
	    $(STATIC) go test -count=1 -timeout 90m ./test/e2e/chaos -v -ginkgo.v $(CHAOSFLAGS)

# What `make test` runs of it: a training killed at random moments, an API server that goes away.
.PHONY: chaos-short
chaos-short: CHAOSFLAGS := -ginkgo.label-filter=short
chaos-short: chaos ## The short part of the faults, which is in make test.

.PHONY: fuzz
fuzz: ## Fuzz every parser for FUZZTIME (default 20s) each.
	@hack/fuzz.sh $(or $(FUZZTIME),20s)

##@ Measurements
.PHONY: bench
bench: ## Prefill, decode and batched decode of well-known shapes (BENCHFLAGS="--shapes 1B …").
	@mkdir -p $(BIN)
	go run ./test/bench --json $(BIN)/bench.json $(BENCHFLAGS)

comma := ,

# Peers are NAME=PATH, separated by commas: llama.cpp's own program, and ik_llama.cpp's.
BENCH_PEERS = $(if $(LLAMA_BENCH),llama.cpp=$(LLAMA_BENCH))$(if $(IK_LLAMA_BENCH),$(if $(LLAMA_BENCH),$(comma))ik_llama.cpp=$(IK_LLAMA_BENCH))
SERVE_PEERS = $(if $(LLAMA_SERVER),llama.cpp=$(LLAMA_SERVER))$(if $(IK_LLAMA_SERVER),$(if $(LLAMA_SERVER),$(comma))ik_llama.cpp=$(IK_LLAMA_SERVER))

.PHONY: bench-peers
bench-peers: ## The same beside llama.cpp and ik_llama.cpp: LLAMA_BENCH=/path/to/llama-bench IK_LLAMA_BENCH=….
	@[ -n "$(BENCH_PEERS)" ] || { echo "bench-peers: LLAMA_BENCH=… or IK_LLAMA_BENCH=… must name a llama-bench" >&2; exit 1; }
	@mkdir -p $(BIN)
	go run ./test/bench --json $(BIN)/bench-peers.json --llama-bench '$(BENCH_PEERS)' $(BENCHFLAGS)

.PHONY: bench-serve
bench-serve: ## Servers under load: 32 clients, with 8 experts and without, beside LLAMA_SERVER=/path/to/llama-server if given (BENCHFLAGS="--shapes 1B --dtype int8 …").
	@mkdir -p $(BIN)
	go build -o $(BIN)/bench-t2 ./runtime
	go run ./test/bench --serve --rounds 1 --t2 $(BIN)/bench-t2 --shapes 135M --dtype bf16,int8 --json $(BIN)/bench-serve.json $(if $(SERVE_PEERS),--llama-server '$(SERVE_PEERS)') $(BENCHFLAGS)

.PHONY: bench-train
bench-train: ## The SVF training step beside PyTorch (PYTHON=… has torch).
	@mkdir -p $(BIN)
	go run ./test/bench --train --shapes 135M --json $(BIN)/bench-train.json --python $(or $(PYTHON),/usr/bin/python3) $(BENCHFLAGS)

.PHONY: bench-passes
bench-passes: ## What pass 1 costs beside pass 2, and the second turn of a conversation beside its own tokens.
	go run ./test/bench --passes --shapes 135M $(BENCHFLAGS)

.PHONY: bench-choosing
bench-choosing: ## Experts that pass 1 chooses beside pinned ones, 32 clients at a time (BENCHFLAGS="--max-batch 32 …").
	@mkdir -p $(BIN)
	go run ./test/bench --choosing --shapes 135M --json $(BIN)/bench-choosing.json $(BENCHFLAGS)

.PHONY: bench-gate
bench-gate: ## From the change of an expert to its gate's verdict on the demo's cluster, beside the same by hand (after make demo; BENCHFLAGS="--rounds 5").
	@export KUBECONFIG=$$($(T2C) kubeconfig --name $(DEMO_CLUSTER)); \
	  $(KUBECTL) apply -k config/samples/rollout && \
	  go run ./test/bench/gate --kubectl $(KUBECTL) --t2 $(BIN)/t2 --inside "$(T2C) exec --name $(DEMO_CLUSTER)" $(BENCHFLAGS)

.PHONY: bench-shared
bench-shared: ## The memory of up to four trainings at once that share their base (half an hour; BENCHFLAGS="--rounds 1": a third).
	go build -o $(BIN)/bench-t2 ./runtime
	go run ./test/bench --shared-trainings 4 --t2 $(BIN)/bench-t2 --shapes 135M --dtype f32,bf16 --json $(BIN)/bench-shared.json $(BENCHFLAGS)

.PHONY: bench-evolution
bench-evolution: ## Evolution beside Reinforce on the demo's skills: time, memory and score from SEEDS (3) seeds, each alone on one thread (5 minutes).
	go build -o $(BIN)/bench-t2 ./runtime
	go run ./test/bench --evolution --rounds $(or $(SEEDS),3) --t2 $(BIN)/bench-t2 --json $(BIN)/bench-evolution.json $(BENCHFLAGS)

.PHONY: bench-go
bench-go: ## Go benchmarks of the numeric core, for benchstat.
	go test -run '^$$' -bench . -benchtime 1s ./runtime/...

.PHONY: paper
paper: ## Measure like the paper, into hack/paper/RESULTS.md (SEEDS=3, PAPERFLAGS="--only trained --budget 20"; goes on where it stopped).
	@mkdir -p $(BIN)
	@$(ALIVE) "the measurement: building" "seconds, the first time 1 minute" go build -o $(BIN)/measure ./hack/paper
	@$(BIN)/measure --seeds $(or $(SEEDS),1) $(PAPERFLAGS)

.PHONY: paper-bases
paper-bases: ## Make the data sets and base models of hack/paper anew (Debian's python3-torch and libopenblas0-pthread; 15 minutes of a core each).
	@hack/paper/base/make.py data
	@for base in a:0 b:1; do $(ALIVE) "base model $${base%:*}: training" "15 minutes" hack/paper/base/make.py model --seed $${base#*:} --out hack/paper/models/$${base%:*}; done
	@$(ALIVE) "base model long: training" "8 minutes" hack/paper/base/make.py long --model hack/paper/models/a --out hack/paper/models/long

##@ Checks
.PHONY: lint
lint: verify ## go vet, golangci-lint, kube-api-linter, govulncheck, and generated code is current.
	@echo "==> go vet"; $(STATIC) go vet ./...
	@hack/lint.sh

.PHONY: generate
generate: ## Regenerate deepcopy, CRDs, RBAC and apply configurations.
	hack/generate.sh

.PHONY: kernels
kernels: ## Make the PTX of kernels/*.cu (fetches the pinned CUDA toolkit, 1 GB, the first time).
	@hack/cuda/kernels.sh

.PHONY: ptxas
ptxas: ## Write registers, spills and occupancy of the kernels into kernels/README.md.
	@hack/cuda/ptxas.sh

.PHONY: kernels-bytes
kernels-bytes: softcuda ## Write the bytes that each kernel moves into kernels/README.md.
	@$(KERNEL_TESTS) -update

.PHONY: verify
verify: ## Fail if generated code or formatting is not current.
	@hack/verify.sh

##@ Pieces
.PHONY: setup
setup: ## Install Debian packages and build the local cluster's binaries (idempotent).
	@hack/setup.sh $(DEBS)
	@$(MAKE) --no-print-directory cluster-bin

.PHONY: cluster-bin
cluster-bin:
	@mkdir -p $(BIN)
	@$(BUILD_T2C)
	@$(T2C) build --bin $(CLUSTER)

.PHONY: cluster-up
cluster-up: cluster-bin
	@$(T2C) up --name $(DEMO_CLUSTER) --bin $(CLUSTER)

.PHONY: build
build: ## Build manager and t2 (static, no cgo).
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 $(ALIVE) "the operator: building" "seconds, the first time 2 minutes" go build -trimpath -ldflags '-s -w' -o $(BIN)/manager .
	@CGO_ENABLED=0 $(ALIVE) "the runtime: building" "seconds, the first time 1 minute" go build -trimpath -ldflags '-s -w' -o $(BIN)/t2 ./runtime
	@CGO_ENABLED=0 $(ALIVE) "the demo model's carrier: building" "seconds" go build -trimpath -ldflags '-s -w' -o $(BIN)/seed ./hack/demo/seed

.PHONY: kubectl-t2
kubectl-t2: ## Build the plugin of kubectl (static, no cgo): bin/kubectl-t2, to be put on PATH.
	@mkdir -p $(BIN)
	@CGO_ENABLED=0 $(ALIVE) "the plugin of kubectl: building" "seconds, the first time 1 minute" go build -trimpath -ldflags '-s -w' -o $(BIN)/kubectl-t2 ./controllers/kubectl-t2

# What compiles and links t2-cuda: our header of the driver's API, and a library that
# finds the driver when the program starts. Nothing of NVIDIA's is needed.
CUDA_ENV := CGO_ENABLED=1 CGO_CFLAGS="-O2 -I$(CURDIR)/hack/softcuda/include" CGO_LDFLAGS="-L$(BIN)/cuda"

.PHONY: build-cuda
build-cuda: ## Build t2-cuda, the runtime for NVIDIA GPUs (needs a C compiler, and no CUDA).
	@mkdir -p $(BIN)
	@hack/cuda/loader.sh
	@$(CUDA_ENV) $(ALIVE) "the runtime for GPUs: building" "1 minute, the first time 2" go build -tags cuda -trimpath -ldflags '-s -w' -o $(BIN)/t2-cuda ./runtime

.PHONY: softcuda
softcuda:
	@$(ALIVE) "the software driver: building" "seconds, the first time 3 minutes" hack/softcuda/build.sh

# What is run on the CUDA backend: all of its own tests and the model's, and of what
# stands on them the tests that take seconds on the software driver.
CUDA_SKIP := ResultsDoNotDependOnThreads|SiblingsCompute
CUDA_UPPER := GreedyEquals|ChainRule|Logprobs|StopTokens|EightExperts|ReferenceAlgorithm|DivergenceFromItself|ExtremeLogits|Compos|OnTheDevice|CandidatesAreJudged|MixturesAreThose
KERNEL_TESTS := CGO_ENABLED=1 LD_LIBRARY_PATH=$(BIN)/softcuda SOFTCUDA_STRICT=1 go test -count=1 -tags cuda -trimpath ./test/kernels

.PHONY: test-cuda
test-cuda: softcuda ## The CUDA runtime's tests on the software driver, which executes the PTX that ships.
	@hack/cuda/loader.sh
	@echo "==> the software driver's own tests"; hack/softcuda/test.sh
	@echo "==> each kernel on the software driver, and the bytes that it moves"; $(KERNEL_TESTS)
	@echo "==> the CUDA backend, and what computes on it, on the software driver"
	@export $(CUDA_ENV) $(if $(DATA),T2_SHARED_DATA=$(DATA)) LD_LIBRARY_PATH=$(BIN)/softcuda:$(BIN)/softcuda/libraries SOFTCUDA_STRICT=1 T2_BACKEND=cuda; \
	  $(ALIVE) "its own tests and the model's" "4 minutes" go test -tags cuda -trimpath -timeout 20m -skip '$(CUDA_SKIP)' ./runtime/backend/cuda ./runtime/backend/registry ./runtime/model; \
	  $(ALIVE) "the engine's and training's" "1 minute" go test -tags cuda -trimpath -timeout 20m -run '$(CUDA_UPPER)' ./runtime/engine ./runtime/train ./runtime/expert

.PHONY: test-gpu
test-gpu: ## The same tests, and each kernel under compute-sanitizer, on a GPU of this machine; or carry bin/gpu to one, and say bin/gpu/run test there.
	@hack/cuda/gpu.sh build $(BIN)/gpu
	@$(BIN)/gpu/run test
	@$(BIN)/gpu/run sanitize

.PHONY: bench-gpu
bench-gpu: ## Bandwidth, products and composing on a GPU of this machine.
	@hack/cuda/gpu.sh build $(BIN)/gpu
	@$(BIN)/gpu/run bench

# What NVIDIA's container runtime goes by: which of the driver's libraries a container
# gets, and of which GPUs where nobody else says so. A device plugin says so, and wins.
# And where the driver keeps what it has compiled our PTX to, as the root is read-only.
NVIDIA_ENV := --env NVIDIA_DRIVER_CAPABILITIES=compute,utility --env NVIDIA_VISIBLE_DEVICES=all --env CUDA_CACHE_PATH=/tmp/cuda
# What cuBLAS and cuSOLVER compute, for an image that has them.
LIBRARY_ENV := $(foreach use,T2_CUBLAS T2_CUSOLVER,$(if $($(use)),--env $(use)=$($(use))))

.PHONY: images
images: build ## Build the images as tarballs in bin/images, without Docker.
	@mkdir -p $(BIN)/images
	@[ -x $(T2C) ] || $(BUILD_T2C)
	$(T2C) image --out $(BIN)/images/manager.tar --name $(IMG_BASE)/manager:$(TAG) --add $(BIN)/manager:/manager --entrypoint /manager
	$(T2C) image --out $(BIN)/images/t2.tar --name $(IMG_BASE)/t2:$(TAG) --add $(BIN)/t2:/t2 --entrypoint /t2
	@hack/judge-image.sh $(BIN)/judge
	$(T2C) image --out $(BIN)/images/judge.tar --name $(IMG_BASE)/judge:$(TAG) --add $(BIN)/judge/root:/ --add $(BIN)/t2:/t2 --entrypoint /t2 --entrypoint judge-server
	$(T2C) image --out $(BIN)/images/demo-assets.tar --name $(IMG_BASE)/demo-assets:$(TAG) --add $(BIN)/seed:/seed --add config/samples/demo/model:/assets/model --entrypoint /seed

.PHONY: image-cuda
image-cuda: build-cuda ## Build t2-cuda's image likewise (CUDA_LIBRARIES=FOLDER puts cuBLAS and cuSOLVER from there into it).
	@mkdir -p $(BIN)/images
	@[ -x $(T2C) ] || $(BUILD_T2C)
	@hack/cuda/image.sh $(BIN)/cuda-image
	$(T2C) image --out $(BIN)/images/t2-cuda.tar --name $(IMG_BASE)/t2-cuda:$(TAG) --add $(BIN)/cuda-image/root:/ --add $(BIN)/t2-cuda:/t2-cuda --entrypoint /t2-cuda $(NVIDIA_ENV) $(LIBRARY_ENV)

.PHONY: load-images
load-images:
ifeq ($(EXTERNAL),yes)
	@for i in $(IMAGES); do $(ALIVE) "$(IMG_BASE)/$$i:$(TAG): pushing" "seconds, the first time 1 minute" $(GOTOOL) crane push $(BIN)/images/$$i.tar $(IMG_BASE)/$$i:$(TAG); done
else
	@$(T2C) load-image --name $(CLUSTER_NAME) $(foreach i,$(IMAGES),$(BIN)/images/$(i).tar)
endif

.PHONY: release
release: cluster-bin ## Images for amd64 and arm64, chart, manifests, kubectl plugin, bills of materials, provenance and checksums in dist (VERSION=v0.1.0, COSIGN_KEY=…).
	@VERSION="$(VERSION)" IMG_BASE="$(IMG_BASE)" T2_BIN="$(BIN)" KUBECTL="$(CLUSTER)/kubectl" hack/release.sh

.PHONY: release-dry-run
release-dry-run: cluster-bin helm cosign ## Make a release, sign it with a throw-away key, push it to a registry here, and check all of it (DIST=… takes one that is there).
	@DIST="$(DIST)" VERSION="$(or $(VERSION),v0.0.0-dry)" T2_BIN="$(BIN)" KUBECTL="$(CLUSTER)/kubectl" hack/release-dry-run.sh

.PHONY: release-push
release-push: ## Push what make release made in dist, and sign it where it is (COSIGN_KEY=…, DIST=…, IMG_REGISTRY=…).
	@T2_BIN="$(BIN)" hack/release-push.sh "$(or $(DIST),dist)" $(IMG_REGISTRY)

.PHONY: release-twice
release-twice: cluster-bin helm ## Make a release twice, from two folders, and fail where a byte differs.
	@T2_BIN="$(BIN)" KUBECTL="$(CLUSTER)/kubectl" hack/release-twice.sh

.PHONY: print-softcuda
print-softcuda: ## Build the software CUDA driver and print its folder, for LD_LIBRARY_PATH on a machine without a GPU.
	@hack/softcuda/build.sh >&2
	@echo $(BIN)/softcuda

.PHONY: clean
clean: ## Remove what was built.
	rm -rf $(BIN)

//go:build k8s

package k8s_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
)

// release is the name of the Helm release, and of its namespace.
const release = "halley"

// cluster is a Kubernetes cluster that kubectl and helm reach, with the release in it.
type cluster struct {
	rig.Site
	chart, values string // its files
	registry      string // of the images
	tag, nextTag  string // of the images that are installed, and upgraded to
	node          string // address of a node
	api           string // the API server's address, through kubectl proxy
}

// connect begins a connection to the cluster that KUBECONFIG names. It ends with the test.
func connect(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{
		chart: os.Getenv("HALLEY_E2E_CHART"), values: os.Getenv("HALLEY_E2E_VALUES"), registry: os.Getenv("HALLEY_E2E_REGISTRY"),
		tag: os.Getenv("HALLEY_E2E_TAG"), nextTag: os.Getenv("HALLEY_E2E_NEXT_TAG"),
	}
	if c.chart == "" || c.values == "" || c.tag == "" || c.nextTag == "" {
		t.Fatal("HALLEY_E2E_CHART, _VALUES, _TAG and _NEXT_TAG are not set: run this test with `make e2e-k8s`")
	}
	ctx, cancel := context.WithCancel(context.Background())
	proxy := exec.CommandContext(ctx, "kubectl", "proxy", "--port=0")
	out, err := proxy.StdoutPipe()
	if err == nil {
		err = proxy.Start()
	}
	if err != nil {
		cancel()
		t.Fatalf("kubectl proxy: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		_ = proxy.Wait() // it was killed
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	address := regexp.MustCompile(`[0-9.]+:[0-9]+`).FindString(line)
	if address == "" {
		t.Fatalf("kubectl proxy: %q, %v", line, err)
	}
	c.api = "http://" + address
	c.node = run(t, time.Minute, "kubectl", "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	return c
}

// run runs a program and returns what it prints.
func run(t *testing.T, within time.Duration, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	out, err := commandIn(ctx, program, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func commandIn(ctx context.Context, program string, args ...string) (string, error) {
	var wrong bytes.Buffer
	command := exec.CommandContext(ctx, program, args...)
	command.Stderr = &wrong
	out, err := command.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s%s", program, strings.Join(args, " "), err, out, wrong.Bytes())
	}
	return string(out), nil
}

// kubectl runs kubectl in the release's namespace.
func (c *cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, 5*time.Minute, "kubectl", append([]string{"-n", release}, args...)...)
}

// helm installs or upgrades the release to the images of a tag, with further flags, and returns how long it took until all was ready.
func (c *cluster) helm(t *testing.T, verb, tag string, flags ...string) time.Duration {
	t.Helper()
	begun := time.Now()
	image := func(name string) string {
		return strings.TrimPrefix(c.registry+"/halley/"+name+":"+c.tag, "/")
	}
	args := []string{
		verb, release, c.chart, "-n", release, "-f", c.chart + "/values-trial.yaml", "-f", c.values,
		"--set", "image.tag=" + tag, "--set", "image.registry=" + c.registry, "--set", "trial.nats.image=" + image("trial-nats"),
		"--set", "trial.postgresql.image=" + image("trial-postgres"), "--wait", "--timeout", "8m",
	}
	run(t, 10*time.Minute, "helm", append(args, flags...)...)
	return time.Since(begun).Round(100 * time.Millisecond)
}

// find finds out where the release's doors are.
func (c *cluster) find(t *testing.T) {
	t.Helper()
	port := func(service, name string) string {
		return c.kubectl(t, "get", "service", service, "-o", `jsonpath={.spec.ports[?(@.name=="`+name+`")].nodePort}`)
	}
	c.MQTT = c.node + ":" + port(release+"-gateway", "mqtt")
	c.GRPC = c.node + ":" + port(release+"-pushcore", "grpc")
	c.URL = "http://" + c.node + ":" + port(release+"-pushcore", "http")
	token, err := base64.StdEncoding.DecodeString(c.kubectl(t, "get", "secret", release+"-secrets", "-o", "jsonpath={.data.admin-token}"))
	if err != nil {
		t.Fatalf("admin token: %v", err)
	}
	c.AdminToken = string(token)
}

// get reads a path of the API server, at most a minute long.
func (c *cluster) get(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.api+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, response.Status)
	}
	return body, err
}

// pod is what the test wants to know of a pod.
type pod struct {
	Metadata struct {
		Name              string     `json:"name"`
		DeletionTimestamp *time.Time `json:"deletionTimestamp"`
	} `json:"metadata"`
	Status struct {
		Conditions []struct {
			Type, Status string
		} `json:"conditions"`
		ContainerStatuses []struct {
			ContainerID  string `json:"containerID"`
			RestartCount int    `json:"restartCount"`
		} `json:"containerStatuses"`
	} `json:"status"`
}

func (p pod) ready() bool {
	for _, condition := range p.Status.Conditions {
		if condition.Type == "Ready" {
			return condition.Status == "True" && p.Metadata.DeletionTimestamp == nil
		}
	}
	return false
}

// container returns the id of the pod's container, and how often it was restarted.
func (p pod) container() (id string, restarts int) {
	if len(p.Status.ContainerStatuses) == 0 {
		return "", 0
	}
	_, id, _ = strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	return id, p.Status.ContainerStatuses[0].RestartCount
}

// pods returns the pods of a component, those that are ending, too.
func (c *cluster) pods(ctx context.Context, component string) ([]pod, error) {
	text, err := c.get(ctx, "/api/v1/namespaces/"+release+"/pods?labelSelector=app.kubernetes.io/component%3D"+component)
	if err != nil {
		return nil, err
	}
	var list struct{ Items []pod }
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, fmt.Errorf("pods: %w", err)
	}
	return list.Items, nil
}

// awaitPods waits until a component has just this many pods, all of them ready.
func (c *cluster) awaitPods(t *testing.T, component string, n int, within time.Duration) []pod {
	t.Helper()
	var found []pod
	rig.Until(t, within, fmt.Sprintf("%d pods of %s are ready", n, component), func() (err error) {
		if found, err = c.pods(t.Context(), component); err != nil {
			return err
		}
		ready := 0
		for _, p := range found {
			if p.ready() {
				ready++
			}
		}
		if ready != n || len(found) != n {
			return fmt.Errorf("%d of %d are", ready, len(found))
		}
		return nil
	})
	return found
}

// metric reads a value of a pod's metrics: of the first series of that name that has this label.
func (c *cluster) metric(ctx context.Context, pod, name, label string) (float64, error) {
	text, err := c.get(ctx, "/api/v1/namespaces/"+release+"/pods/"+pod+":9100/proxy/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.HasPrefix(series, name+"{") && strings.Contains(series, label) {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, errors.New("there is no " + name)
}

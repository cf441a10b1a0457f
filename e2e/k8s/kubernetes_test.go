//go:build k8s

package k8s_test

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/halleypush/halley/e2e/rig"
)

// fleetSize is how many phones there are, unless HALLEY_E2E_PHONES says otherwise.
const fleetSize = 3000

// TestKubernetes installs the chart with its trial parts and keeps pushing to phones outside the cluster while pods are deleted, upgraded,
// scaled, scaled by themselves, killed and restarted. Every push that was accepted reaches each of its phones' apps once.
//
// Its parts follow each other on one release.
func TestKubernetes(t *testing.T) { //nolint:tparallel // the parts share the cluster
	t.Parallel()
	c := connect(t)
	t.Cleanup(func() {
		if t.Failed() {
			c.explain(t)
		}
	})
	t.Logf("helm install to all ready: %v", c.helm(t, "install", c.tag))
	c.find(t)
	begun := time.Now()
	run(t, 5*time.Minute, "helm", "test", release, "-n", release)
	t.Logf("helm test: %v", time.Since(begun).Round(100*time.Millisecond))
	f := gather(t, c.CreateApp(t, "fleet"), size())
	f.begin(t)
	for _, part := range []struct { //nolint:paralleltest // one after the other
		name string
		run  func(t *testing.T, c *cluster, f *fleet)
	}{
		{"network policies are there", policies},
		{"a gateway's pod is deleted", deleteGateway},
		{"upgrade to a new image", upgrade},
		{"scaled from 3 to 5 to 2", scale},
		{"scaled by connections", autoscale},
		{"each process killed", killAll},
		{"NATS and PostgreSQL restarted", restart},
		{"the ledger", ledger},
	} {
		t.Run(part.name, func(t *testing.T) { part.run(t, c, f) })
	}
}

// size is how many phones there are.
func size() int {
	if n, err := strconv.Atoi(os.Getenv("HALLEY_E2E_PHONES")); err == nil {
		return max(n, 30)
	}
	return fleetSize
}

// explain shows what the pods are doing.
func (c *cluster) explain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"get", "pods,hpa", "-o", "wide"},
		{"get", "events", "--sort-by=.lastTimestamp"},
		{"logs", "-l", "app.kubernetes.io/instance=" + release, "--tail=20", "--prefix"},
	} {
		out, err := commandIn(ctx, "kubectl", append([]string{"-n", release}, args...)...)
		t.Logf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// policies checks that every component has a policy that selects its pods. Whether they are enforced is the cluster's network's matter.
func policies(t *testing.T, c *cluster, _ *fleet) {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ PodSelector json.RawMessage }
		}
	}
	if err := json.Unmarshal([]byte(c.kubectl(t, "get", "networkpolicies", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, policy := range list.Items {
		names = append(names, policy.Metadata.Name)
	}
	for _, component := range []string{"pushcore", "gateway", "sender", "nats", "postgresql"} {
		if !slices.Contains(names, release+"-"+component) {
			t.Errorf("%s has no policy; there are %v", component, names)
		}
	}
	t.Logf("policies: %v", names)
}

// deleteGateway deletes a pod with a third of the phones: it drains.
func deleteGateway(t *testing.T, c *cluster, f *fleet) {
	t.Helper()
	victim := c.awaitPods(t, "gateway", 3, time.Minute)[0].Metadata.Name
	stop := c.watchPace(t)
	f.during(t, "kubectl delete pod of a gateway", func() {
		begun := time.Now()
		c.kubectl(t, "delete", "pod", victim, "--wait")
		t.Logf("the pod was gone after %v", time.Since(begun).Round(100*time.Millisecond))
	})
	stop()
	c.awaitPods(t, "gateway", 3, time.Minute)
}

// upgrade replaces every pod of Halley's by one of another image.
func upgrade(t *testing.T, c *cluster, f *fleet) {
	t.Helper()
	stop := c.watchPace(t)
	most := f.during(t, "helm upgrade to a new image", func() {
		t.Logf("helm upgrade to all ready: %v", c.helm(t, "upgrade", c.nextTag))
		c.awaitPods(t, "gateway", 3, 3*time.Minute) // the old ones have drained
		c.awaitPods(t, "pushcore", 2, 3*time.Minute)
	})
	stop()
	if most > 1 {
		t.Errorf("a phone was disconnected %d times: gateways sent it to others that were about to go", most)
	}
	images := c.kubectl(t, "get", "pods", "-l", "app.kubernetes.io/component in (gateway,pushcore,sender-apns)",
		"-o", `jsonpath={range .items[*]}{.spec.containers[0].image}{"\n"}{end}`)
	for image := range strings.Lines(images) {
		if !strings.HasSuffix(strings.TrimSpace(image), ":"+c.nextTag) {
			t.Errorf("a pod still runs %s", image)
		}
	}
}

// scale changes the number of gateways. Nobody is disconnected by more of them.
func scale(t *testing.T, c *cluster, f *fleet) {
	t.Helper()
	to := func(n int) {
		c.kubectl(t, "scale", "deployment", release+"-gateway", "--replicas="+strconv.Itoa(n))
		c.awaitPods(t, "gateway", n, 3*time.Minute)
	}
	if most := f.during(t, "from 3 gateways to 5", func() { to(5) }); most > 0 {
		t.Errorf("a phone was disconnected %d times by more gateways", most)
	}
	stop := c.watchPace(t)
	f.during(t, "from 5 gateways to 2", func() { to(2) })
	stop()
}

// autoscale has the number of gateways follow the phones: four with all of them, two when two thirds have left.
func autoscale(t *testing.T, c *cluster, f *fleet) {
	t.Helper()
	c.serveMetrics(t)
	// kubectl scale and the autoscaler have had a say in the replicas, too: without the flag Helm leaves them the last word, and fails.
	back := func() {
		c.helm(t, "upgrade", c.nextTag, "--force-conflicts")
		c.awaitPods(t, "gateway", 3, 3*time.Minute)
	}
	f.during(t, "helm upgrade back to 3 gateways", back)
	perPod := len(f.phones) / 4
	most := f.during(t, "autoscaling switched on", func() {
		begun := time.Now()
		c.helm(t, "upgrade", c.nextTag, "--set", "gateway.autoscaling.enabled=true", "--set", "gateway.autoscaling.minReplicas=2",
			"--set", "gateway.autoscaling.maxReplicas=6", "--set", "gateway.autoscaling.sessionsPerPod="+strconv.Itoa(perPod),
			"--set", "gateway.autoscaling.scaleUp.stabilizationSeconds=0", "--set", "gateway.autoscaling.scaleDown.stabilizationSeconds=10",
			"--set", "gateway.autoscaling.scaleDown.periodSeconds=15")
		c.awaitPods(t, "gateway", 4, 3*time.Minute)
		t.Logf("%d phones, %d per pod: 4 gateways after %v, with the upgrade", len(f.phones), perPod, time.Since(begun).Round(100*time.Millisecond))
	})
	if most > 0 {
		t.Errorf("a phone was disconnected %d times when autoscaling was switched on", most)
	}
	leaving := f.phones[:2*len(f.phones)/3]
	begun := time.Now()
	for _, p := range leaving {
		p.leave()
	}
	c.awaitPods(t, "gateway", 2, 4*time.Minute)
	t.Logf("%d phones left: 2 gateways after %v", len(leaving), time.Since(begun).Round(100*time.Millisecond))
	f.during(t, "the phones that left are back", func() {
		begun := time.Now()
		if err := f.connect(leaving); err != nil {
			t.Fatal(err)
		}
		c.awaitPods(t, "gateway", 4, 4*time.Minute)
		t.Logf("all phones: 4 gateways after %v", time.Since(begun).Round(100*time.Millisecond))
	})
	t.Log(c.kubectl(t, "get", "hpa"))
	f.during(t, "autoscaling switched off", func() {
		c.kubectl(t, "delete", "hpa", release+"-gateway") // as docs/kubernetes.md says: it could set the number again in the midst of the upgrade
		back()
	})
}

// killAll kills the process of each pod in turn.
func killAll(t *testing.T, c *cluster, f *fleet) {
	t.Helper()
	for _, victims := range []struct {
		component string
		pods      int
	}{{"gateway", 3}, {"pushcore", 2}, {"sender-apns", 1}, {"nats", 1}, {"postgresql", 1}} {
		for _, victim := range c.awaitPods(t, victims.component, victims.pods, time.Minute) {
			f.during(t, "kill -9 in "+victim.Metadata.Name, func() { c.kill(t, victims.component, victim) })
		}
	}
}

// restart deletes the pods of NATS and PostgreSQL, which come back with their volumes.
func restart(t *testing.T, c *cluster, f *fleet) {
	t.Helper()
	for _, component := range []string{"nats", "postgresql"} {
		f.during(t, "restart of "+component, func() {
			begun := time.Now()
			c.kubectl(t, "delete", "pod", release+"-"+component+"-0", "--wait")
			c.awaitPods(t, component, 1, 2*time.Minute)
			t.Logf("%s was away for %v", component, time.Since(begun).Round(100*time.Millisecond))
		})
		c.awaitPods(t, "pushcore", 2, 2*time.Minute)
		c.awaitPods(t, "gateway", 3, 2*time.Minute)
	}
	rig.Until(t, time.Minute, "helm test once more", func() error {
		_, err := commandIn(t.Context(), "helm", "test", release, "-n", release)
		return err
	})
}

// ledger ends the load, and compares what the phones got and what the ledger says with what was pushed.
func ledger(t *testing.T, _ *cluster, f *fleet) {
	t.Helper()
	f.stop()
	f.check(t)
}

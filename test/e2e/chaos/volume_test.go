package chaos

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/transformersquared/operator/api/v1alpha1"
	"github.com/transformersquared/operator/controllers/desired"
	"github.com/transformersquared/operator/runtime/contract"
	"github.com/transformersquared/operator/test/e2e/kube"
)

// diskSize of a disk: a few times what the demo's model and its factors take.
const diskSize = "64Mi"

// disk is a small file system in memory that all nodes have, as a volume of the cluster.
type disk struct{ class, path string }

// newDisk makes one, which goes with the spec.
func newDisk(ctx context.Context, name string) *disk {
	GinkgoHelper()
	d := &disk{class: name, path: filepath.Join(filepath.Dir(os.Getenv("KUBECONFIG")), name)}
	tool(ctx, "exec", "mkdir", "-p", d.path)
	tool(ctx, "exec", "mount", "-t", "tmpfs", "-o", "size="+diskSize[:len(diskSize)-1]+",mode=1777", name, d.path)
	DeferCleanup(func(ctx SpecContext) {
		tool(ctx, "exec", "umount", "--lazy", d.path)
		tool(ctx, "exec", "rmdir", d.path)
	})
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		StorageClassName:              d.class,
		Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(diskSize)},
		AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: d.path}},
	}}
	Expect(cluster.Create(ctx, pv)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { kubectl(ctx, "", "delete", "pv", name, "--timeout=60s") }, NodeTimeout(time.Minute))
	return d
}

// fill takes all room that is left; also what a writer gives back afterwards, as often as it is
// called.
func (d *disk) fill(ctx context.Context) {
	GinkgoHelper()
	tool(ctx, "exec", "sh", "-c", `cat /dev/zero >>"$0" 2>/dev/null; test -s "$0"`, filepath.Join(d.path, "ballast"))
}

func (d *disk) empty(ctx context.Context) {
	GinkgoHelper()
	tool(ctx, "exec", "rm", "-f", filepath.Join(d.path, "ballast"))
}

// protect makes it read-only ("ro"), which the kernel does only while nobody has a file open to
// write to, or writable again ("rw").
func (d *disk) protect(ctx context.Context, mode string) {
	GinkgoHelper()
	Eventually(func() error {
		_, err := kube.TryProgram(ctx, os.Getenv("T2CLUSTER"), "", "exec", "--name", os.Getenv("CHAOS_CLUSTER"), "mount", "-o", "remount,"+mode, d.path)
		return err
	}).WithContext(ctx).WithPolling(10 * time.Millisecond).Should(Succeed())
}

func volumes() {
	DescribeTable("says so, and a training goes on where it was when it is mended", func(ctx SpecContext, name, reason, says, remedy string, breaks func(context.Context, *disk, *v1alpha1.ExpertVector), mend func(context.Context, *disk)) {
		d := newDisk(ctx, "chaos-"+name)
		base := &v1alpha1.BaseModel{ObjectMeta: named(name), Spec: v1alpha1.BaseModelSpec{
			Source:  v1alpha1.ModelSource{PersistentVolumeClaim: &v1alpha1.ClaimSource{ClaimName: "demo-assets", Path: "model"}},
			Storage: v1alpha1.StorageSpec{Size: new(resource.MustParse(diskSize)), StorageClassName: d.class, AccessModes: []v1alpha1.AccessMode{"ReadWriteMany"}},
		}}
		Expect(cluster.Create(ctx, base)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) {
			kubectl(ctx, "", "-n", namespace, "delete", "basemodel", base.Name, "--timeout=120s")
		}, NodeTimeout(3*time.Minute))
		waitReady(ctx, base)
		e := training("on-" + name)
		e.Spec.BaseModelRef.Name = base.Name
		e.Spec.Training.BackoffLimit = new(int32(1)) // So that the pauses of the operator are seen, not those of the Job.
		begin(ctx, e)
		at := reaches(ctx, e, 3)

		By("breaking the disk after iteration " + fmt.Sprint(at))
		DeferCleanup(func(ctx SpecContext) { mend(ctx, d) }, NodeTimeout(time.Minute))
		breaks(ctx, d, e)
		Eventually(func(g Gomega) {
			c := conditionOf(ctx, g, e, v1alpha1.ConditionReady)
			g.Expect(e.Status.Artifact).To(BeNil(), "it ended before its disk was broken")
			g.Expect(c.Reason).To(Equal(reason), c.Message)
			g.Expect(c.Message).To(And(ContainSubstring(says), ContainSubstring(contract.MountData), ContainSubstring(remedy)))
		}).WithContext(ctx).Should(Succeed())
		broken := time.Now()
		becomes(ctx, e, v1alpha1.ConditionReady, metav1.ConditionFalse, reason, says, remedy, "It is tried again at")
		Expect(kube.Condition(e, v1alpha1.ConditionStalled).Status).NotTo(Equal(metav1.ConditionTrue), "nobody has to touch the object")
		GinkgoWriter.Printf("%s\n", kube.Condition(e, v1alpha1.ConditionReady).Message)

		By("mending it")
		mend(ctx, d)
		mended := time.Now()
		ofOneRun(ctx, e)
		GinkgoWriter.Printf("it is Ready %s after it was mended, %s after it was broken\n",
			time.Since(mended).Round(time.Second), time.Since(broken).Round(time.Second))
		Expect(e.Status.Runs[0].Retries).To(HaveValue(BeNumerically(">=", 1)))
		pods := kubectl(ctx, "", "-n", namespace, "logs", "-l", v1alpha1.LabelExpert+"="+e.Name, "-c", desired.ContainerTrain, "--tail=-1")
		Expect(pods).To(ContainSubstring("Training was continued"))
	},
		Entry("when a volume is full", "full", contract.ReasonDiskFull, "no space left on device", "enlarge the volume",
			func(ctx context.Context, d *disk, e *v1alpha1.ExpertVector) {
				Eventually(func(g Gomega) { // What one checkpoint gives back is room for the next.
					d.fill(ctx)
					g.Expect(conditionOf(ctx, g, e, v1alpha1.ConditionReady).Reason).To(Equal(contract.ReasonDiskFull))
				}).WithContext(ctx).Should(Succeed())
			},
			func(ctx context.Context, d *disk) { d.empty(ctx) }, SpecTimeout(10*time.Minute)),
		Entry("when a volume is read-only", "protected", contract.ReasonDiskReadOnly, "read-only file system", "mount the volume writable",
			func(ctx context.Context, d *disk, e *v1alpha1.ExpertVector) {
				// Between two pods: the first has files open as long as it lives.
				Expect(signal(ctx, trainingPod(ctx, e), "SIGKILL")).To(BeTrue())
				d.protect(ctx, "ro")
			},
			func(ctx context.Context, d *disk) { d.protect(ctx, "rw") }, SpecTimeout(10*time.Minute)),
	)
}

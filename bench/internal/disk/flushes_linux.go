package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// flushField is the place of the completed flushes in a block device's stat.
const flushField = 15

// Flushes returns how often the disk under dir has been told to make its cache durable, by whatever process, or -1.
// Flushes that the kernel joined count once, and only whole disks count, no partitions: of one, its disk is taken.
func Flushes(dir string) int64 {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return -1
	}
	major := st.Dev>>8&0xfff | st.Dev>>32&^0xfff
	minor := st.Dev&0xff | st.Dev>>12&^0xff
	device, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return -1
	}
	if _, err := os.Stat(filepath.Join(device, "partition")); err == nil {
		device = filepath.Dir(device)
	}
	b, err := os.ReadFile(filepath.Join(device, "stat"))
	if err != nil {
		return -1
	}
	fields := strings.Fields(string(b))
	if len(fields) <= flushField {
		return -1
	}
	n, err := strconv.ParseInt(fields[flushField], 10, 64)
	if err != nil {
		return -1
	}
	return n
}

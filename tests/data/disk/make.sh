#!/bin/sh
# Makes the images of this folder from the raw disk that README.md describes; needs qemu-utils.
set -eu
disk=$(realpath "$1")
cd "$(dirname "$0")"
qemu-img convert -f raw -O qcow2 -o compat=0.10,cluster_size=512 "$disk" v2.qcow2
qemu-img convert -f raw -O qcow2 -o cluster_size=512 "$disk" v3-zero.qcow2
qemu-io -f qcow2 -c "write -z 8k 2k" v3-zero.qcow2
qemu-img convert -c -f raw -O qcow2 -o cluster_size=1k "$disk" zlib.qcow2
qemu-img convert -c -f raw -O qcow2 -o cluster_size=1k,compression_type=zstd "$disk" zstd.qcow2
qemu-img convert -f raw -O qcow2 -o cluster_size=16k,extended_l2=on "$disk" extended.qcow2
gzip -9nf extended.qcow2
qemu-img create -q -f qcow2 -o cluster_size=512 -b v2.qcow2 -F qcow2 backed.qcow2
qemu-io -f qcow2 -c "write -P 0x5a 512 512" backed.qcow2

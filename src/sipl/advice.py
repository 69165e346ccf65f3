"""What to do about each reason: the hint that stands behind a finding."""

from __future__ import annotations

from typing import Final

from sipl.reasons import Reason

_RESIGN: Final = "sign the file again, without an older signature in it, and run zipl --secure 1"
_ZIPL: Final = "run zipl again on the guest's system"
_SCLAB: Final = "the file was built or changed wrongly: take it from its package, sign it, run zipl"

HINTS: Final[dict[Reason, str]] = {
    Reason.ADDRESS_OVERLAP: _ZIPL,
    Reason.UNSIGNED_ADDRESS_TOO_LOW: _ZIPL,
    Reason.SCLAB_MISSING: "sign the unchanged kernel or stage3 image: its SCLAB must be its last bytes",
    Reason.SCLAB_LENGTH: _SCLAB,
    Reason.SCLAB_FORMAT: _SCLAB,
    Reason.SCLAB_PSW_NOT_ZERO: _SCLAB,
    Reason.SCLAB_OLA_NOT_ONE: _SCLAB,
    Reason.SCLAB_ADDRESS_NOT_ZERO: _SCLAB,
    Reason.SCLAB_ADDRESS_MISMATCH: "load the component where its SCLAB says: run zipl without an own image address",
    Reason.SCLAB_NUC_NOT_GLOBAL: _SCLAB,
    Reason.SCLAB_SC_NOT_GLOBAL: _SCLAB,
    Reason.SIGNATURE_NOT_VERIFIED: (
        "name the certificate of its signer with --boot-certs, or sign the unchanged file and run zipl again"
    ),
    Reason.PSW_OUTSIDE_SIGNED_CODE: _ZIPL,
    Reason.PSW_MISMATCH: _ZIPL,
    Reason.NO_SIGNED_COMPONENT: "sign stage3.bin and the kernel, then run zipl --secure 1",
    Reason.NO_SCLAB: "sign the stage3.bin and the kernel of a release that knows secure IPL",
    Reason.NO_GLOBAL_SCLAB: "sign stage3.bin, which carries the global SCLAB, and run zipl --secure 1",
    Reason.SEVERAL_GLOBAL_SCLABS: "leave one loader in the program",
    Reason.UNSIGNED_NOT_ALLOWED: "sign every component, or sign a loader without NUC",
    Reason.SINGLE_COMPONENT_VIOLATED: "leave one signed component, or sign a loader without SC",
    Reason.SIGNATURE_TOO_LARGE: "sign without embedded certificates (sign-file's own format)",
    Reason.WEAK_SIGNATURE: "sign with RSA-2048 or more, or with P-521, and SHA-256 or better",
    Reason.BOOT_RECORD_VERSION: _ZIPL,
    Reason.LOADER_WILL_REFUSE: "sign the kernel, keep zipl's default addresses and run zipl --secure 1",
    Reason.LOAD_ADDRESS_FORBIDDEN: "give the guest more memory, or run zipl again with other addresses",
    Reason.FACILITY_MISSING: "choose a CPU model with the facilities of secure IPL",
    Reason.NO_CERTIFICATE: "name a certificate with --boot-certs FILE.pem",
    Reason.SCHEME_NOT_SUPPORTED: "boot from a SCSI-scheme disk (zipl on a virtio or SCSI disk)",
    Reason.LOADPARM_INVALID: "choose a program that is there with --loadparm N",
    Reason.CDROM_NOT_ELIGIBLE: "boot from a disk: --device virtio-blk or virtio-scsi",
    Reason.SIGNATURE_FORMAT: _RESIGN,
    Reason.SIGNATURE_REPEATED: _ZIPL,
    Reason.CERTIFICATE_NOT_AVAILABLE: "check the validity of the certificate: sipl certs",
    Reason.UNKNOWN_COMPONENT_TYPE: _ZIPL,
    Reason.TABLE_NOT_TERMINATED: _ZIPL,
    Reason.SEGMENT_UNREADABLE: "check --block-size, or run zipl again on the guest's system",
    Reason.BLOCK_OUT_OF_RANGE: "check that the image is whole, check --block-size, or run zipl again",
    Reason.BOOT_RECORD_INVALID: _ZIPL,
    Reason.NOT_A_ZIPL_DISK: "install a boot record with zipl, or name the boot disk first",
    Reason.DEVICE_NOT_ELIGIBLE: "use virtio-blk-ccw or a disk on virtio-scsi-ccw",
    Reason.NO_BOOT_DEVICE: "name a disk image",
    Reason.DIRECT_KERNEL_NOT_VERIFIED: "boot the kernel from a disk on which zipl installed it with its signature",
    Reason.TOO_MANY_BOOT_DEVICES: "name at most 8 disks",
    Reason.MENU_CHOICE_NEEDED: "choose an entry with --choose N",
    Reason.IMAGE_INVALID: "check the image with qemu-img check",
}


def hint(reason: Reason) -> str:
    """The general advice for a reason, empty where there is none."""
    return HINTS.get(reason, "")

"""The names of everything that sipl finds: one stable name per reason (docs/reasons.md).

A name stands in the JSON report, on the console, in exceptions and in the documentation. The level says what a
reason means in audit and in secure mode.
"""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """How much a finding weighs."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Outcome(StrEnum):
    """How an IPL ends."""

    UNDECIDED = "undecided"
    HANDS_OVER = "hands-over"
    STOPS = "stops"
    NO_BOOTABLE_DEVICE = "no-bootable-device"
    REFUSED_TO_START = "refused-to-start"


class Mode(StrEnum):
    """Boot mode: what the flags of the first IPL parameter block ask for."""

    NORMAL = "normal"
    AUDIT = "audit"
    SECURE = "secure"


class Reason(StrEnum):
    """Why; the documentation gives the cause and the cure of each."""

    # rules of secure IPL: a warning in audit mode, the end in secure mode
    ADDRESS_OVERLAP = "address-overlap"
    UNSIGNED_ADDRESS_TOO_LOW = "unsigned-address-too-low"
    SCLAB_MISSING = "sclab-missing"
    SCLAB_LENGTH = "sclab-length"
    SCLAB_FORMAT = "sclab-format"
    SCLAB_PSW_NOT_ZERO = "sclab-psw-not-zero"
    SCLAB_OLA_NOT_ONE = "sclab-ola-not-one"
    SCLAB_ADDRESS_NOT_ZERO = "sclab-address-not-zero"
    SCLAB_ADDRESS_MISMATCH = "sclab-address-mismatch"
    SCLAB_NUC_NOT_GLOBAL = "sclab-nuc-not-global"
    SCLAB_SC_NOT_GLOBAL = "sclab-sc-not-global"
    SIGNATURE_NOT_VERIFIED = "signature-not-verified"
    PSW_OUTSIDE_SIGNED_CODE = "psw-outside-signed-code"
    PSW_MISMATCH = "psw-mismatch"
    NO_SIGNED_COMPONENT = "no-signed-component"
    NO_SCLAB = "no-sclab"
    NO_GLOBAL_SCLAB = "no-global-sclab"
    SEVERAL_GLOBAL_SCLABS = "several-global-sclabs"
    UNSIGNED_NOT_ALLOWED = "unsigned-not-allowed"
    SINGLE_COMPONENT_VIOLATED = "single-component-violated"
    # said, never the end by itself
    COMPONENT_VERIFIED = "component-verified"
    SIGNATURE_TOO_LARGE = "signature-too-large"
    WEAK_SIGNATURE = "weak-signature"
    BOOT_RECORD_VERSION = "boot-record-version"
    LOADER_WILL_REFUSE = "loader-will-refuse"
    # the machine stops, in every mode in which the rule exists
    LOAD_ADDRESS_FORBIDDEN = "load-address-forbidden"
    FACILITY_MISSING = "facility-missing"
    NO_CERTIFICATE = "no-certificate"
    SCHEME_NOT_SUPPORTED = "scheme-not-supported"
    LOADPARM_INVALID = "loadparm-invalid"
    CDROM_NOT_ELIGIBLE = "cdrom-not-eligible"
    # the device is given up, the next one is tried
    SIGNATURE_FORMAT = "signature-format"
    SIGNATURE_REPEATED = "signature-repeated"
    CERTIFICATE_NOT_AVAILABLE = "certificate-not-available"
    UNKNOWN_COMPONENT_TYPE = "unknown-component-type"
    TABLE_NOT_TERMINATED = "table-not-terminated"
    SEGMENT_UNREADABLE = "segment-unreadable"
    BLOCK_OUT_OF_RANGE = "block-out-of-range"
    BOOT_RECORD_INVALID = "boot-record-invalid"
    NOT_A_ZIPL_DISK = "not-a-zipl-disk"
    # the machine does not start
    DEVICE_NOT_ELIGIBLE = "device-not-eligible"
    NO_BOOT_DEVICE = "no-boot-device"
    DIRECT_KERNEL_NOT_VERIFIED = "direct-kernel-not-verified"
    FIRMWARE_NOT_TRUSTED = "firmware-not-trusted"
    TOO_MANY_CERTIFICATES = "too-many-certificates"
    CERTIFICATE_PATH = "certificate-path"
    CERTIFICATE_NOT_PEM = "certificate-not-pem"
    CERTIFICATE_UNREADABLE = "certificate-unreadable"
    CERTIFICATE_TOO_LARGE = "certificate-too-large"
    CERTIFICATE_SKIPPED = "certificate-skipped"
    CERTIFICATE_DIRECTORY_EMPTY = "certificate-directory-empty"
    TOO_MANY_BOOT_DEVICES = "too-many-boot-devices"
    CPU_FEATURE_DEPENDENCY = "cpu-feature-dependency"
    OPTION_IGNORED = "option-ignored"
    IMAGE_NOTE = "image-note"
    # no verdict
    FIRMWARE_DECIDES = "firmware-decides"
    IMAGE_UNREADABLE = "image-unreadable"
    IMAGE_INVALID = "image-invalid"
    MENU_CHOICE_NEEDED = "menu-choice-needed"


# What audit mode only warns about and secure mode stops at.
MODE_RULES = frozenset(
    {
        Reason.ADDRESS_OVERLAP,
        Reason.UNSIGNED_ADDRESS_TOO_LOW,
        Reason.SCLAB_MISSING,
        Reason.SCLAB_LENGTH,
        Reason.SCLAB_FORMAT,
        Reason.SCLAB_PSW_NOT_ZERO,
        Reason.SCLAB_OLA_NOT_ONE,
        Reason.SCLAB_ADDRESS_NOT_ZERO,
        Reason.SCLAB_ADDRESS_MISMATCH,
        Reason.SCLAB_NUC_NOT_GLOBAL,
        Reason.SCLAB_SC_NOT_GLOBAL,
        Reason.SIGNATURE_NOT_VERIFIED,
        Reason.PSW_OUTSIDE_SIGNED_CODE,
        Reason.PSW_MISMATCH,
        Reason.NO_SIGNED_COMPONENT,
        Reason.NO_SCLAB,
        Reason.NO_GLOBAL_SCLAB,
        Reason.SEVERAL_GLOBAL_SCLABS,
        Reason.UNSIGNED_NOT_ALLOWED,
        Reason.SINGLE_COMPONENT_VIOLATED,
    }
)


class SealReason(StrEnum):
    """Why `sipl seal` or `sipl unseal` leaves a disk as it is (docs/reasons.md, "Why a disk is not sealed")."""

    # the image file
    IMAGE_IN_USE = "image-in-use"
    IMAGE_NOT_WRITABLE = "image-not-writable"
    QCOW2_DIRTY = "qcow2-dirty"
    QCOW2_CORRUPT = "qcow2-corrupt"
    QCOW2_ENCRYPTED = "qcow2-encrypted"
    QCOW2_SNAPSHOTS = "qcow2-snapshots"
    QCOW2_BITMAPS = "qcow2-bitmaps"
    QCOW2_DATA_FILE = "qcow2-data-file"
    QCOW2_FEATURE = "qcow2-feature"
    QCOW2_REFCOUNTS = "qcow2-refcounts"
    # where there would be room
    NO_PARTITION_TABLE = "no-partition-table"
    PARTITION_TABLE_INVALID = "partition-table-invalid"
    PARTITION_TABLE_HYBRID = "partition-table-hybrid"
    PARTITIONS_OVERLAP = "partitions-overlap"
    BIOS_BOOT_AREA = "bios-boot-area"
    NO_GAP = "no-gap"
    GAP_NOT_EMPTY = "gap-not-empty"
    GAP_IN_USE = "gap-in-use"
    GAP_HOLDS_GRUB = "gap-holds-grub"
    GAP_HOLDS_LVM = "gap-holds-lvm"
    GAP_HOLDS_MD = "gap-holds-md"
    GAP_HOLDS_LUKS = "gap-holds-luks"
    # what would be signed
    BOOT_MAP_UNUSABLE = "boot-map-unusable"
    NOTHING_TO_SIGN = "nothing-to-sign"
    COMPONENT_NOT_EXPECTED = "component-not-expected"
    COMPONENT_NOT_FOUND = "component-not-found"
    COMPONENT_TOO_LARGE = "component-too-large"
    SPARSE_DEFECT = "sparse-defect"
    FOREIGN_SIGNATURE = "foreign-signature"
    SIGNATURE_UNUSABLE = "signature-unusable"
    TABLE_FULL = "table-full"
    WOULD_NOT_BOOT = "would-not-boot"
    # taking a seal away
    NOT_SEALED = "not-sealed"

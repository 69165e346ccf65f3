# What sipl has a stopped guest run to learn which device it chose for its next IPL
# (docs/qemu-engine.md, "A re-IPL that QEMU does not do").
#
# It stores the IPL parameter block behind itself, for sipl to read, and stops in a disabled wait that says so, as the
# harmless image does after a reset; here there was none, so the registers are as the guest left them.
#
# Entered by a restart interruption, in 64-bit addressing mode, without translation, with nothing enabled.

        .equ    DIAG_308_STORE, 6
        .equ    RESPONSE_OK, 1
        .equ    PROGRAM_NEW_PSW, 0x1d0

        .text
start:  larl    %r4, control            # first of all: the guest may have low-address protection on
        lctlg   %c0, %c0, 0(%r4)
        larl    %r4, fault              # the guest's own handler would be entered by a program interruption
        mvc     PROGRAM_NEW_PSW(16), 0(%r4)
        larl    %r2, block
        lghi    %r6, DIAG_308_STORE
        diag    %r2, %r6, 0x308
        larl    %r4, stored
        chi     %r3, RESPONSE_OK
        je      stop
        larl    %r4, none
stop:   lpswe   0(%r4)

        .balign 8
control: .quad  0xe0                    # control register 0 as a reset leaves it
stored: .quad   0x0002000180000000, 0x51b260
none:   .quad   0x0002000180000000, 0x51b270
fault:  .quad   0x0002000180000000, 0x51b280

        .balign 4096
block:  .fill   4096, 1, 0

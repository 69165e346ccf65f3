# What sipl writes over the harmless image once everything that is to run has been verified and placed
# (docs/qemu-engine.md, "The jump"). A reset of QEMU puts the harmless image back.
#
# It gives the IPL parameter block to QEMU, makes sure that QEMU gives the same one back, as Linux and stage3 will read
# it there, and enters the guest by the PSW at absolute 0, with all registers zero.
#
# Entered in 64-bit addressing mode with all registers zero.

        .equ    DIAG_308_SET, 5
        .equ    DIAG_308_STORE, 6
        .equ    RESPONSE_OK, 1
        .equ    IPL_PSW, 0
        .equ    COMPARED, 200           # header and block 0 of a block of type CCW: all that means something in it

        .text
start:  larl    %r4, address
        llgf    %r2, 0(%r4)
        ltgr    %r2, %r2                # a kernel that came without a disk has no block
        jz      enter
        lghi    %r6, DIAG_308_SET
        diag    %r2, %r6, 0x308
        larl    %r4, refused
        chi     %r3, RESPONSE_OK
        jne     stop
        lgr     %r5, %r2
        larl    %r2, block
        lghi    %r6, DIAG_308_STORE
        diag    %r2, %r6, 0x308
        larl    %r4, changed
        chi     %r3, RESPONSE_OK
        jne     stop
        clc     0(COMPARED, %r2), 0(%r5)
        jne     stop
        xgr     %r3, %r3
        xgr     %r5, %r5
        xgr     %r6, %r6
enter:  xgr     %r2, %r2
        xgr     %r4, %r4
        lpsw    IPL_PSW
stop:   lpswe   0(%r4)

        .balign 8
refused: .quad  0x0002000180000000, 0x51b240
changed: .quad  0x0002000180000000, 0x51b250

        .org    0x0ffc
address: .long  0                       # of the block, or 0: sipl writes it before it places these pages
block:  .fill   4096, 1, 0

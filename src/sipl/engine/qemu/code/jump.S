# What sipl writes over the harmless image once everything that is to run has been verified and placed
# (docs/qemu-engine.md, "The jump"). A reset of QEMU puts the harmless image back.
#
# It gives the IPL parameter block to QEMU, makes sure that QEMU gives the same one back, as Linux and stage3 will read
# it there, and enters the guest by the PSW at absolute 0, with all registers zero. (Where that PSW has more than an
# address and an addressing mode of 31 or 64 bits, register 4 is not.)
#
# Entered in 64-bit addressing mode with all registers zero.

        .equ    DIAG_308_SET, 5
        .equ    DIAG_308_STORE, 6
        .equ    RESPONSE_OK, 1
        .equ    IPL_PSW, 0
        .equ    SHORT_PSW, 0x00080000   # tells a short PSW, in which it is 1
        .equ    BASIC_ADDRESSING, 0x80000000
        .equ    ADDRESS, 0x7fffffff
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

# LPSW enters the guest in another addressing mode than the PSW says under QEMU 7.2, so the whole PSW is made here.
enter:  larl    %r4, psw
        llgf    %r2, IPL_PSW
        xilf    %r2, SHORT_PSW
        sllg    %r2, %r2, 32
        llgf    %r3, IPL_PSW+4
        lgr     %r5, %r3
        nilf    %r5, BASIC_ADDRESSING
        ogr     %r2, %r5
        stg     %r2, 0(%r4)
        nilf    %r3, ADDRESS
        stg     %r3, 8(%r4)
# A PSW that only has an addressing mode is loaded here first, so that the register that it is loaded by can be cleared.
        srlg    %r2, %r2, 31
        cghi    %r2, 1                  # 31 bits
        je      plain
        cghi    %r2, 3                  # 64 bits
        jne     load
plain:  tmll    %r3, 1
        jnz     load
        larl    %r5, loaded
        stg     %r5, 8(%r4)
        larl    %r5, branch
        sgr     %r3, %r5
        srag    %r3, %r3, 1             # a branch counts in halfwords
        st      %r3, 2(%r5)
load:   xgr     %r2, %r2
        xgr     %r3, %r3
        xgr     %r5, %r5
        xgr     %r6, %r6
stop:   lpswe   0(%r4)
loaded: xgr     %r4, %r4
branch: brcl    15, .

        .balign 8
psw:    .quad   0, 0
refused: .quad  0x0002000180000000, 0x51b240
changed: .quad  0x0002000180000000, 0x51b250

        .org    0x0ffc
address: .long  0                       # of the block, or 0: sipl writes it before it places these pages
block:  .fill   4096, 1, 0

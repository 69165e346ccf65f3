# What a QEMU that sipl started runs as its firmware (docs/qemu-engine.md, "The harmless image").
#
# It stores the IPL parameter block behind itself, for sipl to read, and stops in a disabled wait that says so. It loads
# nothing, reads no device and branches nowhere: whatever resets this QEMU or starts it too early ends here.
#
# Entered in 64-bit addressing mode with all registers zero. QEMU writes it anew at every reset, the block's room too.

        .equ    DIAG_308_STORE, 6
        .equ    RESPONSE_OK, 1
        .equ    PROGRAM_NEW_PSW, 0x1d0

        .text
start:  larl    %r4, fault              # what the guest before left there would be entered by a program interruption
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
stored: .quad   0x0002000180000000, 0x51b210
none:   .quad   0x0002000180000000, 0x51b220
fault:  .quad   0x0002000180000000, 0x51b230

        .balign 4096
block:  .fill   4096, 1, 0

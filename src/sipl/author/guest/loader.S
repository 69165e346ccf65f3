# Loader of the demo guest: enters the kernel, after a secure IPL only if the IPL report says that a signed and
# verified component was loaded where the kernel lies (docs/demo-guest.md).
#
# Entered at 0xA000 in 31-bit addressing mode. Registers on entry do not matter; no stack, memory written: the
# program-new PSW and the page at IPLB_COPY.

        .include "guest.inc"

        .text
start:  sam64
        # A report that leads out of memory must end in a state with a name, not in a loop of program checks.
        larl    %r1,fault
        mvc     PROGRAM_NEW_PSW(16),0(%r1)

        store_iplb
        cghi    %r3,DIAG308_NO_BLOCK            # started without an IPL: nobody asked for security
        je      enter
        larl    %r5,no_iplb
        cghi    %r3,DIAG308_OK
        jne     stop
        tm      IPLB_FLAGS(%r2),IPLB_SECURE
        jz      enter
        larl    %r5,no_report
        tm      IPLB_FLAGS(%r2),IPLB_REPORT
        jz      stop

        larl    %r5,not_verified
        lghi    %r7,1
        sllg    %r7,%r7,16                      # KERNEL
        find_report
block:  read_block stop, stop
        cghi    %r1,BLOCK_COMPONENTS
        jne     next
        la      %r11,BLOCK_HEADER(%r9)
entry:  la      %r1,COMPONENT_ENTRY(%r11)
        clgr    %r1,%r10
        jh      next
        clg     %r7,COMPONENT_ADDRESS(%r11)
        jne     other
        lg      %r1,COMPONENT_LENGTH(%r11)      # nothing was verified if it is 0
        ltgr    %r1,%r1
        jz      other
        tm      COMPONENT_FLAGS(%r11),SIGNED_AND_VERIFIED
        jo      enter
other:  la      %r11,COMPONENT_ENTRY(%r11)
        j       entry
next:   lgr     %r9,%r10
        j       block

enter:  llilh   %r1,KERNEL >> 16
        br      %r1

stop:   lpswe   0(%r5)

        wait_psw no_iplb, 0xbad001
        wait_psw no_report, 0xbad002
        wait_psw not_verified, 0xbad003
        wait_psw fault, 0xbad00f
        # The assembler would fill the section up to its alignment with what its version likes.
        .balign 8, 0

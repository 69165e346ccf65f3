# Loader for Linux: what zipl's stage3 does, with an own look at the IPL report (docs/formats/loader.md).
#
# Entered at 0xA000 in 31-bit addressing mode. No stack. Memory written: the program-new PSW (restored before the
# kernel is entered), two places in the loader's own 0x4000 bytes, and the kernel.
#
# In a secure IPL nothing is moved, copied or entered before all of the parameters have been found in order.
#
# %r4   flags that the components of command line, RAM disk and environment must have
# %r6   1 in a secure IPL, otherwise 0
# %r7   the parameters
# %r11  length of the kernel, as it was loaded
# %r13  end of the kernel, as it was loaded
# %r15  the most bytes that its command line can have, the zero at the end included

        .include "guest.inc"

        .equ    PARAMETERS, 0x9000
        .equ    PARM_COMMAND_LINE, 0
        .equ    PARM_INITRD, 8
        .equ    PARM_INITRD_LENGTH, 16
        .equ    PARM_KERNEL_PSW, 24             # and the switch for more parameters at 32
        .equ    PARM_FLAGS, 40
        .equ    PARM_KERNEL_LENGTH, 48
        .equ    PARM_KERNEL, 56
        .equ    PARM_ENVIRONMENT, 64
        .equ    PARM_ENVIRONMENT_LENGTH, 72
        .equ    PARM_SIZE, 80

        .equ    IPLB_VERSION, 7
        .equ    OWN_IPLB_COPY, 0xc000           # a page of the loader's own, behind the code
        .equ    OWN_SAVED_PSW, 0xd000
        .equ    OWN_SCLAB, 0xdfe0
        .equ    SCLAB_FLAGS, 2
        .equ    SCLAB_NUC, 0x20                 # of the first byte of the flags

        .equ    SUBCHANNEL, 0xb8                # lowcore: of the device that the IPL was from
        .equ    MOVED_BY, 0x10000               # the kernel's file begins with what it has no use for
        .equ    LINUX_MAGIC, 8                  # offsets from the kernel's entry
        .equ    LINUX_SUBCHANNEL, 0x400
        .equ    LINUX_INITRD, 0x408
        .equ    LINUX_INITRD_LENGTH, 0x410
        .equ    LINUX_COMMAND_LINE_SIZE, 0x430
        .equ    LINUX_COMMAND_LINE, 0x480
        .equ    OLD_COMMAND_LINE_SIZE, 896      # of kernels that do not say
        .equ    LONGEST_COMMAND_LINE, 0x10000   # what zipl keeps free for one
        .equ    LONGEST_SIGNATURE, 4096 + 40    # and the trailer that stands behind it
        .equ    LARGEST_BLOCK, 4096
        .equ    ENVIRONMENT_TEXT, 25            # bytes at its start that say what it is

        .text
start:  j       begin
        .ascii  "sipl loader 1\0"
        .balign 8, 0
begin:  sam64
        # Whatever leads out of memory must end in a state with a name, not in a loop of program checks.
        llill   %r2,OWN_SAVED_PSW
        mvc     0(16,%r2),PROGRAM_NEW_PSW
        larl    %r1,fault
        mvc     PROGRAM_NEW_PSW(16),0(%r1)
        llill   %r7,PARAMETERS
        lghi    %r4,0
        lghi    %r6,0

        llill   %r2,OWN_IPLB_COPY
        lghi    %r3,0
        lghi    %r1,DIAG308_STORE
        diag    %r2,%r1,0x308
        cghi    %r3,DIAG308_NO_BLOCK            # started without an IPL: nobody asked for security
        je      values
        larl    %r5,no_iplb
        cghi    %r3,DIAG308_OK
        jne     stop
        cli     IPLB_VERSION(%r2),0
        jne     stop
        tm      IPLB_FLAGS(%r2),IPLB_SECURE
        jz      values
        lghi    %r6,1
        larl    %r5,no_report
        tm      IPLB_FLAGS(%r2),IPLB_REPORT
        jz      stop

        # A loader that was signed with "no unsigned components" takes nothing that was not verified.
        llill   %r1,OWN_SCLAB
        tm      SCLAB_FLAGS(%r1),SCLAB_NUC
        jz      1f
        lghi    %r4,SIGNED_AND_VERIFIED
1:      larl    %r5,parameters_not_loaded
        lgr     %r2,%r7
        lghi    %r3,PARM_SIZE
        brasl   %r14,listed

values: larl    %r5,parameters_unknown
        lg      %r1,PARM_KERNEL(%r7)
        clgfi   %r1,KERNEL
        jne     stop
        larl    %r1,kernel_start
        clc     PARM_KERNEL_PSW(16,%r7),0(%r1)
        jne     stop
        lg      %r1,PARM_FLAGS(%r7)             # only SCSI or nothing
        llihh   %r2,0x0001
        clgr    %r1,%r2
        je      2f
        cghi    %r1,0
        jne     stop

        # How long is the kernel? In a secure IPL the report says so, not the parameters.
2:      lg      %r11,PARM_KERNEL_LENGTH(%r7)
        cgije   %r6,0,place_kernel
        larl    %r5,not_verified
        find_report
kernel_block:
        read_block stop, malformed
        cghi    %r1,BLOCK_COMPONENTS
        jne     4f
        la      %r12,BLOCK_HEADER(%r9)
3:      la      %r1,COMPONENT_ENTRY(%r12)
        clgr    %r1,%r10
        jh      4f
        lg      %r1,COMPONENT_ADDRESS(%r12)
        clgfi   %r1,KERNEL
        jne     5f
        tm      COMPONENT_FLAGS(%r12),SIGNED_AND_VERIFIED
        jno     5f
        lg      %r11,COMPONENT_LENGTH(%r12)     # nothing was verified if it is 0
        ltgr    %r11,%r11
        jnz     verified
5:      la      %r12,COMPONENT_ENTRY(%r12)
        j       3b
4:      lgr     %r9,%r10
        j       kernel_block

        # The parameters give the length of the file: the component without what fills its last block, and with an
        # appended signature.
verified:
        larl    %r5,kernel_length
        lg      %r1,PARM_KERNEL_LENGTH(%r7)
        lgr     %r2,%r11
        aghi    %r2,LONGEST_SIGNATURE
        clgr    %r1,%r2
        jh      stop
        lgr     %r2,%r11
        clgfi   %r2,LARGEST_BLOCK
        jl      place_kernel                    # far too short anyway
        aghi    %r2,-LARGEST_BLOCK
        clgr    %r1,%r2
        jnh     stop

place_kernel:
        larl    %r5,kernel_length
        llilh   %r1,0x7fff                      # room for what lies in front of it
        clgr    %r11,%r1
        jh      stop
        clgfi   %r11,MOVED_BY + LINUX_COMMAND_LINE
        jnh     stop
        llilh   %r13,KERNEL >> 16
        agr     %r13,%r11

        # Is it Linux, and how long may its command line be?
        larl    %r5,not_linux
        llilh   %r2,(KERNEL + MOVED_BY) >> 16
        larl    %r1,linux_magic
        clc     LINUX_MAGIC(6,%r2),0(%r1)
        jne     stop
        lg      %r15,LINUX_COMMAND_LINE_SIZE(%r2)
        ltgr    %r15,%r15
        jnz     6f
        lghi    %r15,OLD_COMMAND_LINE_SIZE
6:      clgfi   %r15,LONGEST_COMMAND_LINE
        jnh     7f
        llilh   %r15,LONGEST_COMMAND_LINE >> 16
7:      lgr     %r1,%r11
        slgfi   %r1,MOVED_BY + LINUX_COMMAND_LINE
        clgr    %r15,%r1                        # it lies inside of what is moved
        jh      stop

        # RAM disk
        lg      %r2,PARM_INITRD(%r7)
        lg      %r3,PARM_INITRD_LENGTH(%r7)
        ltgr    %r3,%r3
        jz      8f
        larl    %r5,initrd_misplaced
        brasl   %r14,placed
        larl    %r5,initrd_not_loaded
        brasl   %r14,listed

        # Command line: its zero must come before the component ends.
8:      lg      %r2,PARM_COMMAND_LINE(%r7)
        cgije   %r2,-1,10f
        lghi    %r3,1
        larl    %r5,command_line_misplaced
        brasl   %r14,placed
        larl    %r5,command_line_not_loaded
        brasl   %r14,listed
        larl    %r5,command_line_too_long
        llilh   %r3,LONGEST_COMMAND_LINE >> 16
9:      clgr    %r2,%r0
        jnl     stop
        cli     0(%r2),0
        je      10f
        la      %r2,1(%r2)
        brctg   %r3,9b
        j       stop

        # Environment
10:     lg      %r2,PARM_ENVIRONMENT(%r7)
        lg      %r3,PARM_ENVIRONMENT_LENGTH(%r7)
        lghi    %r12,0                          # its end, and the start of its lines in front of it
        cgije   %r2,-1,12f
        ltgr    %r3,%r3
        jz      12f
        larl    %r5,environment_misplaced
        brasl   %r14,placed
        larl    %r5,environment_not_loaded
        brasl   %r14,listed
        larl    %r5,environment_unknown
        clgfi   %r3,ENVIRONMENT_TEXT
        jl      stop
        larl    %r1,environment_text
        clc     0(ENVIRONMENT_TEXT,%r2),0(%r1)
        jne     stop
        la      %r12,0(%r3,%r2)

        # All is in order: the kernel goes to where it runs. It is moved down by more than the 256 bytes of a step.
12:     llilh   %r2,KERNEL >> 16
        llilh   %r1,(KERNEL + MOVED_BY) >> 16
        lgr     %r3,%r11
        slgfi   %r3,MOVED_BY
        aghi    %r3,255
        srlg    %r3,%r3,8
13:     mvc     0(256,%r2),0(%r1)
        la      %r2,256(%r2)
        la      %r1,256(%r1)
        brctg   %r3,13b

        llilh   %r2,KERNEL >> 16
        llgf    %r1,SUBCHANNEL
        stg     %r1,LINUX_SUBCHANNEL(%r2)
        lg      %r3,PARM_INITRD_LENGTH(%r7)
        lg      %r1,PARM_INITRD(%r7)
        ltgr    %r3,%r3
        jnz     14f
        lghi    %r1,0                           # no RAM disk has no address
14:     stg     %r1,LINUX_INITRD(%r2)
        stg     %r3,LINUX_INITRD_LENGTH(%r2)

        # The command line, with ${NAME} replaced by what the environment says, or removed.
        # %r2 next character   %r8 name      %r5 value       %r11 lines of the environment
        # %r3 end of the copy  %r9 its end   %r10 its end    %r12 their end   %r15 place of the last zero
        la      %r3,LINUX_COMMAND_LINE(%r2)
        agr     %r15,%r3
        aghi    %r15,-1
        lg      %r2,PARM_COMMAND_LINE(%r7)
        cgije   %r2,-1,enter
        lg      %r11,PARM_ENVIRONMENT(%r7)
        aghi    %r11,ENVIRONMENT_TEXT
character:
        cli     0(%r2),0
        je      line_done
        cli     0(%r2),'$'
        jne     literal
        cli     1(%r2),'{'
        jne     literal
        la      %r8,2(%r2)
        lgr     %r9,%r8
15:     llgc    %r1,0(%r9)
        cghi    %r1,'}'
        je      name_done
        cghi    %r1,'_'
        je      16f
        cghi    %r1,'0'
        jl      literal
        cghi    %r1,'9'
        jnh     16f
        cghi    %r1,'A'
        jl      literal
        cghi    %r1,'Z'
        jh      literal
16:     la      %r9,1(%r9)
        j       15b
literal:
        larl    %r1,command_line_too_long
        clgr    %r3,%r15
        jnl     stop_1
        mvc     0(1,%r3),0(%r2)
        la      %r3,1(%r3)
        la      %r2,1(%r2)
        j       character

        # The last line that begins with the name and an equals sign counts.
name_done:
        clgr    %r8,%r9
        je      literal
        lghi    %r5,0
        lghi    %r10,0
        lgr     %r1,%r11
next_line:
        clgr    %r1,%r12
        jnl     replace
        cli     0(%r1),0
        je      replace
        lgr     %r6,%r8
17:     clgr    %r1,%r12
        jnl     replace
        clgr    %r6,%r9
        je      18f
        clc     0(1,%r1),0(%r6)
        jne     rest_of_line
        la      %r1,1(%r1)
        la      %r6,1(%r6)
        j       17b
18:     cli     0(%r1),'='
        jne     rest_of_line
        la      %r1,1(%r1)
        lgr     %r5,%r1
19:     lgr     %r10,%r1
        clgr    %r1,%r12
        jnl     replace
        cli     0(%r1),0
        je      replace
        cli     0(%r1),'\n'
        je      rest_of_line
        la      %r1,1(%r1)
        j       19b
rest_of_line:
        clgr    %r1,%r12
        jnl     replace
        cli     0(%r1),0
        je      replace
        la      %r1,1(%r1)
        lgr     %r6,%r1
        aghi    %r6,-1
        cli     0(%r6),'\n'
        je      next_line
        j       rest_of_line
replace:
        larl    %r1,command_line_too_long
20:     clgr    %r5,%r10
        jnl     21f
        clgr    %r3,%r15
        jnl     stop_1
        mvc     0(1,%r3),0(%r5)
        la      %r3,1(%r3)
        la      %r5,1(%r5)
        j       20b
21:     la      %r2,1(%r9)
        j       character
line_done:
        mvi     0(%r3),0

enter:  llill   %r2,OWN_SAVED_PSW
        mvc     PROGRAM_NEW_PSW(16),0(%r2)
        larl    %r5,linux
        j       stop

stop_1: lgr     %r5,%r1
stop:   lpswe   0(%r5)

malformed:
        larl    %r5,report_malformed
        j       stop

# Stops unless the %r3 bytes at %r2 (not 0) lie behind the kernel and below 2 GiB. Changes %r1.
placed: clgr    %r2,%r13
        jl      stop
        llilh   %r1,0x8000
        clgr    %r2,%r1
        jh      stop
        clgr    %r3,%r1
        jh      stop
        slgr    %r1,%r2
        clgr    %r3,%r1
        jh      stop
        br      %r14

# Stops, in a secure IPL, unless the %r3 bytes at %r2 lie in one component of the report that has the flags in %r4.
# %r0 becomes the end of that component, 2 GiB otherwise. Changes %r1, %r8 to %r10, %r12.
listed: llilh   %r0,0x8000
        cgije   %r6,0,25f
        find_report
22:     read_block stop, malformed
        cghi    %r1,BLOCK_COMPONENTS
        jne     24f
        la      %r12,BLOCK_HEADER(%r9)
23:     la      %r1,COMPONENT_ENTRY(%r12)
        clgr    %r1,%r10
        jh      24f
        lg      %r0,COMPONENT_ADDRESS(%r12)
        clgr    %r2,%r0
        jl      26f
        alg     %r0,COMPONENT_LENGTH(%r12)
        jo      26f                             # 3: beyond all addresses
        la      %r1,0(%r3,%r2)
        clgr    %r1,%r0
        jh      26f
        llgc    %r1,COMPONENT_FLAGS(%r12)
        ngr     %r1,%r4
        clgr    %r1,%r4
        je      25f
26:     la      %r12,COMPONENT_ENTRY(%r12)
        j       23b
24:     lgr     %r9,%r10
        j       22b
25:     br      %r14

        # Each address has its name in docs/formats/loader.md.
        wait_psw no_iplb, 0x51b010
        wait_psw no_report, 0x51b020
        wait_psw report_malformed, 0x51b030
        wait_psw parameters_not_loaded, 0x51b040
        wait_psw parameters_unknown, 0x51b050
        wait_psw not_verified, 0x51b060
        wait_psw kernel_length, 0x51b070
        wait_psw not_linux, 0x51b080
        wait_psw initrd_misplaced, 0x51b090
        wait_psw initrd_not_loaded, 0x51b0a0
        wait_psw command_line_misplaced, 0x51b0b0
        wait_psw command_line_not_loaded, 0x51b0c0
        wait_psw command_line_too_long, 0x51b0d0
        wait_psw environment_misplaced, 0x51b0e0
        wait_psw environment_not_loaded, 0x51b0f0
        wait_psw environment_unknown, 0x51b100
        wait_psw fault, 0x51b1f0

        # Disabled, 31-bit addressing mode, as the kernel is entered; and the same as the parameters give it, with no
        # further parameters.
linux:  .quad   0x0000000080000000, KERNEL
kernel_start:
        .quad   0x0008000080000000 + KERNEL, 0
linux_magic:
        .ascii  "S390EP"
environment_text:
        .ascii  "# zIPL Environment Block\n"
        # The assembler would fill the section up to its alignment with what its version likes.
        .balign 8, 0

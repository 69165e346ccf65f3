# Kernel of the demo guest: says on the SCLP console how it was loaded, then stops (docs/demo-guest.md).
#
# Entered at 0x10000 in any addressing mode. No stack. Memory written: the program-new PSW, the SCCB, the line, the
# copy of the IPL parameter block.
#
# %r6   end of the line so far          %r9   block of the report       %r13  return of `flush`
# %r7   flags of the parameter block    %r10  end of that block         %r14  return of all others
# %r8   end of the report               %r11  component entry           %r15  event type of the console
#                                       %r12  certificates so far

        .include "guest.inc"

        .equ    SCCB, 0x2000                    # below 8 KiB the service call takes no address
        .equ    LINE, 0x3000

        .equ    WRITE_EVENT_DATA_HIGH, 0x0076   # command 0x00760005
        .equ    WRITE_EVENT_MASK_HIGH, 0x0078   # command 0x00780005
        .equ    COMMAND_LOW, 0x0005
        .equ    SCCB_RESPONSE, 6
        .equ    RESPONSE_OK, 0x0020
        .equ    PATIENCE_HIGH, 0x0100           # 16 Mi looks

        .equ    EVENT_MESSAGE, 0x02             # line mode, EBCDIC
        .equ    EVENT_VT220, 0x1a               # full screen, ASCII
        .equ    MASK_MESSAGE, 0x40              # of byte 0 of a mask: bit 1 of bits 0 to 31
        .equ    MASK_VT220, 0x40                # of byte 3 of a mask: bit 25
        .equ    MASK_SCLP_RECEIVES, 20          # offset in the SCCB of WRITE EVENT MASK

        .text
start:  sam64
        larl    %r1,fault
        mvc     PROGRAM_NEW_PSW(16),0(%r1)
        lghi    %r6,LINE

        # Which console is there? The SCLP answers with the events that it takes.
        lghi    %r2,SCCB
        larl    %r1,event_mask
        mvc     0(event_mask_end - event_mask,%r2),0(%r1)
        llilh   %r1,WRITE_EVENT_MASK_HIGH
        brasl   %r14,sclp
        lghi    %r2,SCCB
        lghi    %r15,EVENT_MESSAGE
        tm      MASK_SCLP_RECEIVES(%r2),MASK_MESSAGE
        jnz     banner
        lghi    %r15,EVENT_VT220
        tm      MASK_SCLP_RECEIVES + 3(%r2),MASK_VT220
        larl    %r5,no_console
        jz      stop

banner: larl    %r1,t_banner
        brasl   %r14,text
        brasl   %r13,flush

        store_iplb
        lghi    %r7,0
        cghi    %r3,DIAG308_OK
        jne     mode
        llgc    %r7,IPLB_FLAGS(%r2)
mode:   larl    %r1,t_mode
        brasl   %r14,text
        larl    %r1,t_normal
        tmll    %r7,IPLB_REPORT
        jz      1f
        larl    %r1,t_audit
        tmll    %r7,IPLB_SECURE
        jz      1f
        larl    %r1,t_secure
1:      brasl   %r14,text
        brasl   %r13,flush

        lghi    %r12,0
        tmll    %r7,IPLB_REPORT
        jz      none
        find_report
block:  read_block certificates, malformed
        cghi    %r1,BLOCK_CERTIFICATES
        je      count
        cghi    %r1,BLOCK_COMPONENTS
        jne     next
        la      %r11,BLOCK_HEADER(%r9)
entry:  la      %r1,COMPONENT_ENTRY(%r11)
        clgr    %r1,%r10
        jh      next
        larl    %r1,t_component
        brasl   %r14,text
        lg      %r2,COMPONENT_ADDRESS(%r11)
        lghi    %r3,16
        brasl   %r14,hex
        larl    %r1,t_length
        brasl   %r14,text
        lg      %r2,COMPONENT_LENGTH(%r11)
        lghi    %r3,16
        brasl   %r14,hex
        larl    %r1,t_flags
        brasl   %r14,text
        llgc    %r2,COMPONENT_FLAGS(%r11)
        lghi    %r3,2
        brasl   %r14,hex
        brasl   %r13,flush
        la      %r11,COMPONENT_ENTRY(%r11)
        j       entry
count:  lgr     %r1,%r10
        sgr     %r1,%r9
        aghi    %r1,-BLOCK_HEADER
        srlg    %r1,%r1,CERTIFICATE_SHIFT
        agr     %r12,%r1
next:   lgr     %r9,%r10
        j       block

none:   larl    %r1,t_none
        j       2f
malformed:
        larl    %r1,t_malformed
2:      brasl   %r14,text
        brasl   %r13,flush
certificates:
        larl    %r1,t_certificates
        brasl   %r14,text
        lgr     %r2,%r12
        lghi    %r3,4
        brasl   %r14,hex
        brasl   %r13,flush
        larl    %r1,t_done
        brasl   %r14,text
        brasl   %r13,flush
        larl    %r5,done
stop:   lpswe   0(%r5)

# Appends the text at %r1 (length byte, characters) to the line. Changes %r1, %r2.
text:   llgc    %r2,0(%r1)
1:      la      %r1,1(%r1)
        mvc     0(1,%r6),0(%r1)
        la      %r6,1(%r6)
        brctg   %r2,1b
        br      %r14

# Appends the low %r3 hexadecimal digits (1 to 16) of %r2 to the line. Changes %r1 to %r4.
hex:    lghi    %r1,16
        sgr     %r1,%r3
        sllg    %r1,%r1,2
        sllg    %r2,%r2,0(%r1)
        larl    %r4,digits
1:      srlg    %r1,%r2,60
        llgc    %r1,0(%r1,%r4)
        stc     %r1,0(%r6)
        la      %r6,1(%r6)
        sllg    %r2,%r2,4
        brctg   %r3,1b
        br      %r14

# Writes the line to the console and begins a new one. Changes %r0 to %r5, %r14.
flush:  lghi    %r2,SCCB
        lghi    %r3,LINE
        lgr     %r4,%r6
        sgr     %r4,%r3                         # characters
        cghi    %r15,EVENT_VT220
        je      screen

        # One message text object with the line in EBCDIC.
        larl    %r1,message
        mvc     0(message_end - message,%r2),0(%r1)
        la      %r1,message_end - message(%r4)
        sth     %r1,0(%r2)
        aghi    %r1,message - m_event
        sth     %r1,m_event - message(%r2)
        aghi    %r1,m_event - m_mdb
        sth     %r1,m_mdb - message(%r2)
        aghi    %r1,m_mdb - m_text
        sth     %r1,m_text - message(%r2)
        larl    %r5,ebcdic
        la      %r2,message_end - message(%r2)
1:      llgc    %r1,0(%r3)
        llgc    %r1,0(%r1,%r5)
        stc     %r1,0(%r2)
        la      %r2,1(%r2)
        la      %r3,1(%r3)
        brctg   %r4,1b
        j       write

        # The characters as they are, carriage return and line feed behind them.
screen: larl    %r1,vt220
        mvc     0(vt220_end - vt220,%r2),0(%r1)
        la      %r1,vt220_end - vt220 + 2(%r4)
        sth     %r1,0(%r2)
        aghi    %r1,vt220 - v_event
        sth     %r1,v_event - vt220(%r2)
        la      %r2,vt220_end - vt220(%r2)
2:      mvc     0(1,%r2),0(%r3)
        la      %r2,1(%r2)
        la      %r3,1(%r3)
        brctg   %r4,2b
        mvi     0(%r2),0x0d
        mvi     1(%r2),0x0a

write:  llilh   %r1,WRITE_EVENT_DATA_HIGH
        brasl   %r14,sclp
        lghi    %r6,LINE
        br      %r13

# Issues the command with the high halfword in %r1 for the SCCB; returns if it completed normally. The interruption
# that follows stays pending, the response code in the SCCB tells the end: no control register has to be changed
# and no new PSW has to be ready for it. Changes %r0 to %r3, %r5.
sclp:   aghi    %r1,COMMAND_LOW
        lghi    %r2,SCCB
        xc      SCCB_RESPONSE(2,%r2),SCCB_RESPONSE(%r2)
        llilh   %r3,PATIENCE_HIGH
1:      .insn   rre,0xb2200000,%r1,%r2      # SERVC, which the assembler has no name for
        jo      3f                              # 3: not operational
        jnh     2f                              # 0: accepted
        brctg   %r3,1b                          # 2: busy
        j       3f
2:      llgh    %r0,SCCB_RESPONSE(%r2)
        cghi    %r0,RESPONSE_OK
        ber     %r14
        cghi    %r0,0
        jne     3f
        brctg   %r3,2b
3:      larl    %r5,console_failed
        j       stop

        wait_psw done, 0xc0ffee
        wait_psw no_console, 0xbad011
        wait_psw console_failed, 0xbad012
        wait_psw fault, 0xbad01f

        .balign 2, 0
event_mask:
        .hword  event_mask_end - event_mask
        .byte   0, 0, 0, 0
        .hword  0                               # response code
        .hword  0, 4                            # reserved, length of a mask
        .long   0                               # we receive nothing
        .long   0x40000040                      # we send messages and VT220 data
        .long   0, 0                            # what the SCLP receives and sends: filled in
event_mask_end:

        .balign 2, 0
message:
        .hword  0                               # length, filled in like all that are 0 below
        .byte   0, 0, 0, 0
        .hword  0
m_event:
        .hword  0
        .byte   EVENT_MESSAGE, 0, 0, 0
m_mdb:  .hword  0
        .hword  1                               # type: message data block
        .long   0xd4c4c240                      # its tag
        .long   1                               # its revision
m_general:
        .hword  m_text - m_general
        .hword  1                               # type: general object
        .long   0                               # domain
        .zero   8 + 3 + 1                       # time, its fraction, reserved
        .zero   7 + 1                           # date, reserved
        .hword  0                               # flags
        .zero   10                              # reserved
        .zero   8 + 8                           # system name, guest name
m_text: .hword  0
        .hword  4                               # type: message text object
        .hword  0x1000                          # the line ends the message
        .byte   0, 0, 0, 0                      # alarm, reserved
message_end:

        .balign 2, 0
vt220:  .hword  0
        .byte   0, 0, 0, 0
        .hword  0
v_event:
        .hword  0
        .byte   EVENT_VT220, 0, 0, 0
vt220_end:

        .macro  counted name, characters
        .balign 2, 0
\name:  .byte   9f - 8f
8:      .ascii  "\characters"
9:
        .endm

        counted t_banner, "sipl demo guest"
        counted t_mode, "mode: "
        counted t_normal, "normal"
        counted t_audit, "audit"
        counted t_secure, "secure"
        counted t_component, "component "
        counted t_length, " length "
        counted t_flags, " flags "
        counted t_none, "report: none"
        counted t_malformed, "report: malformed"
        counted t_certificates, "certificates: "
        counted t_done, "GUEST-DONE"

        .balign 2, 0
digits: .ascii  "0123456789ABCDEF"

# ASCII to EBCDIC (code page 1047) from 0x20 to 0x7F; all texts are within it, so the table needs no start.
        .balign 2, 0
        .equ    ebcdic, . - 0x20
        .byte   0x40, 0x5a, 0x7f, 0x7b, 0x5b, 0x6c, 0x50, 0x7d, 0x4d, 0x5d, 0x5c, 0x4e, 0x6b, 0x60, 0x4b, 0x61
        .byte   0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0x7a, 0x5e, 0x4c, 0x7e, 0x6e, 0x6f
        .byte   0x7c, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6
        .byte   0xd7, 0xd8, 0xd9, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xad, 0xe0, 0xbd, 0x5f, 0x6d
        .byte   0x79, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96
        .byte   0x97, 0x98, 0x99, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xc0, 0x4f, 0xd0, 0xa1, 0x07
        # The assembler would fill the section up to its alignment with what its version likes.
        .balign 8, 0

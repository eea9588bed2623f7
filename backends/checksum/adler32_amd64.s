#include "textflag.h"

// How often a byte of a vector counts in the sum of sums after that vector.
DATA adlerTaps<>+0(SB)/8, $0x191a1b1c1d1e1f20
DATA adlerTaps<>+8(SB)/8, $0x1112131415161718
DATA adlerTaps<>+16(SB)/8, $0x090a0b0c0d0e0f10
DATA adlerTaps<>+24(SB)/8, $0x0102030405060708
GLOBL adlerTaps<>(SB), RODATA|NOPTR, $32

// func adlerVectors(p *byte, n int, sums *adlerSums)
TEXT ·adlerVectors(SB), NOSPLIT, $0-24
	MOVQ     p+0(FP), SI
	MOVQ     n+8(FP), CX
	MOVQ     sums+16(FP), DI
	VPXOR    Y0, Y0, Y0
	VMOVDQU  adlerTaps<>(SB), Y1
	VPCMPEQW Y2, Y2, Y2
	VPSRLW   $15, Y2, Y2          // 1 in each word
	VPXOR    Y3, Y3, Y3           // bytes
	VPXOR    Y4, Y4, Y4           // earlier
	VPXOR    Y5, Y5, Y5           // within

loop:
	VMOVDQU    (SI), Y6
	VPADDQ     Y3, Y4, Y4
	VPSADBW    Y0, Y6, Y7
	VPADDQ     Y7, Y3, Y3
	VPMADDUBSW Y1, Y6, Y6         // at most 255 * (32+31), which fits a signed word
	VPMADDWD   Y2, Y6, Y6
	VPADDD     Y6, Y5, Y5
	ADDQ       $32, SI
	DECQ       CX
	JNZ        loop

	VMOVDQU Y3, (DI)
	VMOVDQU Y4, 32(DI)
	VMOVDQU Y5, 64(DI)
	VZEROUPPER
	RET
